// Multi-scale deformable attention (Deformable DETR, arXiv 2010.04159, equation 3): parameters and sampling geometry,
// shared by the CPU and CUDA kernels.
#pragma once

#include "bilinear.h"

namespace ops_dcnv3 {

// The maps of all levels lie one after another in `pixels`. Contiguous:
//   value      (batch, pixels, heads, head_channels)
//   locations  (batch, queries, heads, levels, points, 2), (x, y), 0 and 1 being the borders of a level's map
//   weights    (batch, queries, heads, levels, points)
//   output     (batch, queries, heads, head_channels)
struct MsDeformAttnParams {
  int64_t batch, pixels, queries, heads, head_channels, levels, points;
};

// The map of a level: its size, and its first pixel among those of all levels.
struct AttentionLevel {
  int64_t height, width, start;
};

// Does the map lie inside the value, with as many pixels as an int32_t can number?
OPS_DCNV3_INLINE bool is_inside(const AttentionLevel& level, int64_t pixels) {
  return level.height > 0 && level.width > 0 && level.start >= 0 && level.height <= pixels && level.width <= pixels &&
         level.start <= pixels && level.height * level.width <= pixels - level.start &&
         level.height * level.width < 2147483647;
}

// In pixels of a map of `size` along the axis, whose first pixel has its centre at 0.
template <typename T>
OPS_DCNV3_INLINE T attention_position(T location, T size) {
  return location * size - T(T{} + 0.5f);
}

}  // namespace ops_dcnv3
