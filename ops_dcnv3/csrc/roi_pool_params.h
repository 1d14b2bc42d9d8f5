// From tensors and schema arguments to RoiPoolParams, and the tensors themselves in the layout that kernels take. Included
// by .cpp files that know torch, for every device.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

#include <limits>
#include <optional>
#include <vector>

#include "roi_pool.h"

namespace ops_dcnv3 {

// The checks that keep a kernel inside its tensors. The functions of ops_dcnv3.roi_pool say the same at more length before it
// comes to this.
inline RoiPoolParams make_roi_pool_params(const at::Tensor& input, const at::Tensor& rois,
                                          const std::optional<at::Tensor>& offset, const std::optional<at::Tensor>& mask,
                                          at::IntArrayRef output_size, double spatial_scale, int64_t sampling_ratio,
                                          double gamma, bool position_sensitive) {
  TORCH_CHECK(input.dim() == 4, "roi_pool: input must be (N, C, H, W), got shape ", input.sizes());
  TORCH_CHECK(rois.dim() == 2 && rois.size(1) == 5 && rois.is_floating_point(),
              "roi_pool: rois must be (K, 5) of floating-point numbers, got shape ", rois.sizes(), " of ",
              rois.scalar_type());
  TORCH_CHECK(output_size.size() == 2 && output_size[0] > 0 && output_size[1] > 0,
              "roi_pool: output_size must be a pair of positive numbers, got ", output_size);
  TORCH_CHECK(sampling_ratio >= 0, "roi_pool: sampling_ratio must not be negative, got ", sampling_ratio);

  RoiPoolParams p{};
  p.batch = input.size(0), p.height = input.size(2), p.width = input.size(3);
  p.rois = rois.size(0), p.bins_h = output_size[0], p.bins_w = output_size[1];
  p.sampling_ratio = sampling_ratio, p.spatial_scale = spatial_scale, p.gamma = gamma;
  p.position_sensitive = position_sensitive;
  TORCH_CHECK(!offset || offset->dim() == 4, "roi_pool: offset must have 4 dimensions, got shape ", offset->sizes());
  p.classes = offset ? offset->size(1) / 2 : 1;
  const int64_t images = p.classes * roi_pool_maps(p);
  TORCH_CHECK(images > 0 && input.size(1) > 0 && input.size(1) % images == 0,
              "roi_pool: the channels of input must be a positive multiple of ", images, ", got ", input.size(1));
  p.depth = input.size(1) / images;

  constexpr int64_t kLargest = std::numeric_limits<int32_t>::max();
  TORCH_CHECK(p.height > 0 && p.width > 0 && p.height < kLargest && p.width < kLargest && p.height * p.width < kLargest,
              "roi_pool: an image must have a pixel, and fewer than ", kLargest, " of them, got ", p.height, " x ", p.width);
  const std::vector<int64_t> offset_shape{p.rois, 2 * p.classes, p.bins_h, p.bins_w}, mask_shape{p.rois, p.bins_h, p.bins_w};
  auto check = [&](const char* name, const at::Tensor& tensor, at::IntArrayRef shape) {
    TORCH_CHECK(tensor.sizes() == shape, "roi_pool: ", name, " must be ", shape, ", got ", tensor.sizes());
    TORCH_CHECK(tensor.scalar_type() == input.scalar_type(), "roi_pool: ", name, " must have the dtype of input, ",
                input.scalar_type(), ", got ", tensor.scalar_type());
    TORCH_CHECK(tensor.device() == input.device(), "roi_pool: ", name, " must be on the device of input, ",
                input.device(), ", got ", tensor.device());
  };
  if (offset) check("offset", *offset, offset_shape);
  if (mask) check("mask", *mask, mask_shape);
  TORCH_CHECK(rois.device() == input.device(), "roi_pool: rois must be on the device of input, ", input.device(), ", got ",
              rois.device());
  return p;
}

// Sums are kept in double for double, else in float; kernels take all tensors in that type.
inline at::ScalarType roi_pool_sum_type(const at::Tensor& input) {
  return input.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

// Views of (images, channels, height, width), the channels being (classes, depth, maps), as (images, maps, classes, height,
// width, depth), and back. One of the two is contiguous, or both where there is nothing to reorder.
inline at::Tensor with_channels_last(const RoiPoolParams& p, const at::Tensor& tensor) {
  return tensor.unflatten(1, {p.classes, p.depth, roi_pool_maps(p)}).permute({0, 3, 1, 4, 5, 2});
}
inline at::Tensor with_channels_first(const at::Tensor& tensor) {
  return tensor.permute({0, 2, 5, 1, 3, 4}).flatten(1, 3);
}

}  // namespace ops_dcnv3
