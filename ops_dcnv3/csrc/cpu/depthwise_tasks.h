// What the threads of `depthwise_norm_gelu` call: one function per instruction set, without any torch type.
#pragma once

#include <cstdint>

#include "element_types.h"
#include "isa.h"

namespace ops_dcnv3 {

struct DepthwiseParams {
  int64_t batch, height, width, channels;
  int64_t out_height, out_width;
  int64_t kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w;
  double eps;
};

constexpr int64_t kDepthwisePixels = 8;

// Output rows row_begin <= n * out_height + y < row_end. `parameters` are rows of as many numbers as there are
// channels: the taps of the kernel in its order, the bias, the scale and the shift of the norm. `values` is room for
// kDepthwisePixels more such rows.
template <typename T>
using DepthwiseTask = void (*)(const DepthwiseParams&, const T* input, const accumulate_t<T>* parameters, T* output,
                               int64_t row_begin, int64_t row_end, accumulate_t<T>* values);

#define OPS_DCNV3_DECLARE_DEPTHWISE(isa) \
  namespace isa {                        \
  template <typename T>                  \
  DepthwiseTask<T> depthwise_task();     \
  }

OPS_DCNV3_DECLARE_DEPTHWISE(portable)
#ifdef OPS_DCNV3_X86
OPS_DCNV3_DECLARE_DEPTHWISE(avx2)
OPS_DCNV3_DECLARE_DEPTHWISE(avx512)
#endif

}  // namespace ops_dcnv3
