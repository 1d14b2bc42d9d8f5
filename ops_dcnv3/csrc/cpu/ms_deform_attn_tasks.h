// What the threads of `ms_deform_attn` call: one table of functions per instruction set, without any torch type.
#pragma once

#include "element_types.h"
#include "isa.h"
#include "ms_deform_attn.h"

namespace ops_dcnv3 {

// Gradients that are not asked for are null. grad value is accumulated into, the others are written.
template <typename T>
struct MsDeformAttnGradients {
  accumulate_t<T>*value, *locations, *weights;
};

template <typename T>
struct MsDeformAttnInputs {
  const AttentionLevel* levels;
  const T* value;
  const accumulate_t<T>*locations, *weights;
};

template <typename T>
struct MsDeformAttnTasks {
  // Memory that a task needs to itself, in bytes, aligned to 64.
  int64_t (*workspace_bytes)(const MsDeformAttnParams&);

  // Queries begin <= n * queries + q < end.
  void (*forward)(const MsDeformAttnParams&, const MsDeformAttnInputs<T>&, T* output, int64_t begin, int64_t end,
                  void* workspace);

  // The same queries, of the heads head_begin <= h < head_end. Two tasks may run at once when they differ in the
  // images, when they share no head, or when the gradient of the value is not asked for.
  void (*backward)(const MsDeformAttnParams&, const MsDeformAttnInputs<T>&, const T* grad_output,
                   const MsDeformAttnGradients<T>&, int64_t head_begin, int64_t head_end, int64_t begin, int64_t end,
                   void* workspace);
};

#define OPS_DCNV3_DECLARE_ATTENTION(isa)              \
  namespace isa {                                     \
  template <typename T>                               \
  const MsDeformAttnTasks<T>& ms_deform_attn_tasks(); \
  }

OPS_DCNV3_DECLARE_ATTENTION(portable)
#ifdef OPS_DCNV3_X86
OPS_DCNV3_DECLARE_ATTENTION(avx2)
OPS_DCNV3_DECLARE_ATTENTION(avx512)
#endif

}  // namespace ops_dcnv3
