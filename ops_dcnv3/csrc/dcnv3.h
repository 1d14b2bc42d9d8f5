// DCNv3 (arXiv 2211.05778, equation 2): parameters and sampling geometry, shared by the CPU and CUDA kernels.
#pragma once

#include "bilinear.h"

namespace ops_dcnv3 {

// Tensors are contiguous. C = groups * group_channels, P = points of one group at one output pixel.
//   input   (batch, height, width, C)
//   offset  (batch, out_height, out_width, groups, P, 2), (x, y) in units of offset_scale pixels
//   mask    (batch, out_height, out_width, groups, P)
//   output  (batch, out_height, out_width, C)
struct Dcnv3Params {
  int64_t batch, height, width, out_height, out_width;
  int64_t groups, group_channels, points;
  int64_t kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w;
  double offset_scale;
  bool remove_center;

  int64_t channels() const { return groups * group_channels; }
};

// Position of the middle of the kernel window, in input pixels, for output index `out` along one axis.
OPS_DCNV3_INLINE int64_t window_center(int64_t out, int64_t kernel, int64_t stride, int64_t pad, int64_t dilation) {
  return dilation * (kernel - 1) / 2 - pad + out * stride;
}

// Regular grid of the kernel window relative to its middle, in input pixels: x is the outer loop, y the inner one.
template <typename T>
OPS_DCNV3_INLINE void kernel_grid(const Dcnv3Params& p, T* grid_x, T* grid_y) {
  int64_t point = 0;
  for (int64_t i = 0; i < p.kernel_w; ++i) {
    for (int64_t j = 0; j < p.kernel_h; ++j) {
      if (p.remove_center && i == p.kernel_w / 2 && j == p.kernel_h / 2) continue;
      grid_x[point] = static_cast<T>(i * p.dilation_w - p.dilation_w * (p.kernel_w - 1) / 2);
      grid_y[point] = static_cast<T>(j * p.dilation_h - p.dilation_h * (p.kernel_h - 1) / 2);
      ++point;
    }
  }
}

// Where a point lies, in input pixels along one axis. offset_scale multiplies the regular grid too.
template <typename T>
OPS_DCNV3_INLINE T sampling_position(T center, T grid, T offset, T offset_scale) {
  return center + (grid + offset) * offset_scale;
}

}  // namespace ops_dcnv3
