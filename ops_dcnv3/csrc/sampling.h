// What operators share that sample points of a feature map: sizes, and bilinear interpolation.
#pragma once

#include "bilinear.h"

namespace ops_dcnv3 {

// At every output pixel each of `groups` groups of channels is sampled at `points` points of its own.
//   input   (batch, height, width, groups, group_channels)
//   output  (batch, out_height, out_width, groups, group_channels)
struct SamplingParams {
  int64_t batch, height, width, out_height, out_width;  // height * width < 2^31
  int64_t groups, group_channels, points;
};

}  // namespace ops_dcnv3
