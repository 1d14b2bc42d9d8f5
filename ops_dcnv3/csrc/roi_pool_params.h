// From tensors and schema arguments to RoiPoolParams, and the tensors themselves in the layout that kernels take. Included
// by .cpp files that know torch, for every device.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

#include <array>
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
  TORCH_CHECK(sampling_ratio >= 0 && sampling_ratio <= kMostSamples, "roi_pool: sampling_ratio must be from 0 to ",
              kMostSamples, ", got ", sampling_ratio);

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

inline void check_roi_pool_gradients(const RoiPoolParams& p, const at::Tensor& grad_output, const at::Tensor& input,
                                     const std::optional<at::Tensor>& offset, const std::optional<at::Tensor>& mask,
                                     const std::array<bool, 3>& output_mask) {
  const std::vector<int64_t> shape{p.rois, p.classes * p.depth, p.bins_h, p.bins_w};
  TORCH_CHECK(grad_output.sizes() == at::IntArrayRef(shape) && grad_output.scalar_type() == input.scalar_type() &&
                  grad_output.device() == input.device(),
              "roi_pool: grad_output must have the shape, dtype and device of the output, got ", grad_output.sizes(), ", ",
              grad_output.scalar_type(), ", ", grad_output.device());
  TORCH_CHECK((!output_mask[1] || offset) && (!output_mask[2] || mask),
              "roi_pool: there is no gradient by a tensor that is not given");
}

// Views of (images, channels, height, width), the channels being (classes, depth, maps), as (images, maps, classes, height,
// width, depth), and back; the latter copies where it has to.
inline at::Tensor with_channels_last(const RoiPoolParams& p, const at::Tensor& tensor) {
  return tensor.unflatten(1, {p.classes, p.depth, roi_pool_maps(p)}).permute({0, 3, 1, 4, 5, 2});
}
inline at::Tensor with_channels_first(const at::Tensor& tensor) {
  return tensor.permute({0, 2, 5, 1, 3, 4}).flatten(1, 3);
}

// The tensors as the kernels take them, in the type of sums: double for double, else float. But for input they are
// contiguous; it is a view of the input, and contiguous only where that is channels_last.
struct RoiPoolTensors {
  RoiPoolParams p;
  at::Tensor input, rois, offset, mask;

  template <typename T>
  RoiPoolInputs<T> pointers() const {
    auto get = [](const at::Tensor& tensor) { return tensor.defined() ? tensor.const_data_ptr<T>() : nullptr; };
    return {get(input), get(rois), get(offset), get(mask)};
  }
};

inline RoiPoolTensors make_roi_pool_tensors(const at::Tensor& input, const at::Tensor& rois,
                                            const std::optional<at::Tensor>& offset, const std::optional<at::Tensor>& mask,
                                            at::IntArrayRef output_size, double spatial_scale, int64_t sampling_ratio,
                                            double gamma, bool position_sensitive) {
  const RoiPoolParams p = make_roi_pool_params(input, rois, offset, mask, output_size, spatial_scale, sampling_ratio,
                                               gamma, position_sensitive);
  const auto type = input.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  auto convert = [&](const at::Tensor& tensor) { return tensor.to(type).contiguous(); };
  return {p, with_channels_last(p, input.to(type)), convert(rois), offset ? convert(*offset) : at::Tensor(),
          mask ? convert(*mask) : at::Tensor()};
}

}  // namespace ops_dcnv3
