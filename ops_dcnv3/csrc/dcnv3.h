// DCNv3 (arXiv 2211.05778, equation 2): parameters and sampling geometry, shared by the CPU and CUDA kernels.
#pragma once

#include "sampling.h"

namespace ops_dcnv3 {

// C = groups * group_channels, P = points of one group at one output pixel. Contiguous, but for the distance between
// the output pixels of offset and mask, which may be slices of one wider tensor.
//   input   (batch, height, width, C)
//   offset  (batch, out_height, out_width, groups, P, 2), (x, y) in units of offset_scale pixels
//   mask    (batch, out_height, out_width, groups, P); with softmax, the logits of the modulation
//   output  (batch, out_height, out_width, C)
struct Dcnv3Params : SamplingParams {
  int64_t kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w;
  int64_t offset_stride, mask_stride;  // elements from one output pixel to the next
  double offset_scale;
  bool remove_center, softmax;
};

// Position of the middle of the kernel window, in input pixels, for output index `out` along one axis.
OPS_DCNV3_INLINE int64_t window_center(int64_t out, int64_t kernel, int64_t stride, int64_t pad, int64_t dilation) {
  return dilation * (kernel - 1) / 2 - pad + out * stride;
}

// One point of the kernel window relative to its middle, in input pixels: x is the outer loop, y the inner one.
OPS_DCNV3_INLINE void kernel_grid(const Dcnv3Params& p, int64_t point, int64_t* x, int64_t* y) {
  const int64_t center = p.kernel_w / 2 * p.kernel_h + p.kernel_h / 2;
  const int64_t in_window = point + (p.remove_center && point >= center);
  *x = in_window / p.kernel_h * p.dilation_w - p.dilation_w * (p.kernel_w - 1) / 2;
  *y = in_window % p.kernel_h * p.dilation_h - p.dilation_h * (p.kernel_h - 1) / 2;
}

// Where a point lies, in input pixels along one axis. offset_scale multiplies the regular grid too.
template <typename T>
OPS_DCNV3_INLINE T sampling_position(T center, T grid, T offset, T offset_scale) {
  return center + (grid + offset) * offset_scale;
}

}  // namespace ops_dcnv3
