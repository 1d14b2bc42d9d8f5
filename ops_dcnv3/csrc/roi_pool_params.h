// From tensors and schema arguments to RoiPoolParams, and the tensors themselves in the layout that kernels take.
// Included by .cpp files that know torch, for every device.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

#include <array>
#include <limits>
#include <optional>
#include <vector>

#include "roi_pool.h"

namespace ops_dcnv3 {

// The arguments of any of the RoI pools (roi_pool_operators.h). Without offset there is one class; without mask the
// modulation is 1.
struct RoiPoolArguments {
  const char* name;  // of the operator, for messages
  at::Tensor input, rois;
  std::optional<at::Tensor> offset, mask;
  at::IntArrayRef output_size;
  double spatial_scale;
  int64_t sampling_ratio;
  double gamma;
  bool position_sensitive;
};

// The checks that keep a kernel inside its tensors. The functions of ops_dcnv3.roi_pool say the same at more length
// before it comes to this.
inline RoiPoolParams make_roi_pool_params(const RoiPoolArguments& arguments) {
  const char* name = arguments.name;
  const at::Tensor &input = arguments.input, &rois = arguments.rois;
  const std::optional<at::Tensor>&offset = arguments.offset, &mask = arguments.mask;
  const at::IntArrayRef output_size = arguments.output_size;
  const int64_t sampling_ratio = arguments.sampling_ratio;
  TORCH_CHECK(input.dim() == 4, name, ": input must be (N, C, H, W), got shape ", input.sizes());
  TORCH_CHECK(rois.dim() == 2 && rois.size(1) == 5 && rois.is_floating_point(), name,
              ": rois must be (K, 5) of floating-point numbers, got shape ", rois.sizes(), " of ", rois.scalar_type());
  TORCH_CHECK(output_size.size() == 2 && output_size[0] > 0 && output_size[1] > 0, name,
              ": output_size must be a pair of positive numbers, got ", output_size);
  TORCH_CHECK(sampling_ratio >= 0 && sampling_ratio <= kMostSamples, name, ": sampling_ratio must be from 0 to ",
              kMostSamples, ", got ", sampling_ratio);

  RoiPoolParams p{};
  p.batch = input.size(0), p.height = input.size(2), p.width = input.size(3);
  p.rois = rois.size(0), p.bins_h = output_size[0], p.bins_w = output_size[1];
  p.sampling_ratio = sampling_ratio, p.spatial_scale = arguments.spatial_scale, p.gamma = arguments.gamma;
  p.position_sensitive = arguments.position_sensitive;
  TORCH_CHECK(!offset || offset->dim() == 4, name, ": offset must have 4 dimensions, got shape ", offset->sizes());
  p.classes = offset ? offset->size(1) / 2 : 1;
  const int64_t images = p.classes * roi_pool_maps(p);
  TORCH_CHECK(images > 0 && input.size(1) > 0 && input.size(1) % images == 0, name,
              ": the channels of input must be a positive multiple of ", images, ", got ", input.size(1));
  p.depth = input.size(1) / images;

  constexpr int64_t kLargest = std::numeric_limits<int32_t>::max();
  TORCH_CHECK(p.height > 0 && p.width > 0 && p.height < kLargest && p.width < kLargest && p.height * p.width < kLargest,
              name, ": an image must have a pixel, and fewer than ", kLargest, " of them, got ", p.height, " x ",
              p.width);
  const std::vector<int64_t> offset_shape{p.rois, 2 * p.classes, p.bins_h, p.bins_w},
      mask_shape{p.rois, p.bins_h, p.bins_w};
  auto check = [&](const char* what, const at::Tensor& tensor, at::IntArrayRef shape) {
    TORCH_CHECK(tensor.sizes() == shape, name, ": ", what, " must be ", shape, ", got ", tensor.sizes());
    TORCH_CHECK(tensor.scalar_type() == input.scalar_type(), name, ": ", what, " must have the dtype of input, ",
                input.scalar_type(), ", got ", tensor.scalar_type());
    TORCH_CHECK(tensor.device() == input.device(), name, ": ", what, " must be on the device of input, ",
                input.device(), ", got ", tensor.device());
  };
  if (offset) check("offset", *offset, offset_shape);
  if (mask) check("mask", *mask, mask_shape);
  TORCH_CHECK(rois.device() == input.device(), name, ": rois must be on the device of input, ", input.device(),
              ", got ", rois.device());
  return p;
}

inline void check_roi_pool_gradients(const RoiPoolParams& p, const at::Tensor& grad_output,
                                     const RoiPoolArguments& arguments, const std::array<bool, 3>& wanted) {
  const auto& input = arguments.input;
  const std::vector<int64_t> shape{p.rois, p.classes * p.depth, p.bins_h, p.bins_w};
  TORCH_CHECK(grad_output.sizes() == at::IntArrayRef(shape) && grad_output.scalar_type() == input.scalar_type() &&
                  grad_output.device() == input.device(),
              arguments.name, ": grad_output must have the shape, dtype and device of the output, got ",
              grad_output.sizes(), ", ", grad_output.scalar_type(), ", ", grad_output.device());
  TORCH_CHECK((!wanted[1] || arguments.offset) && (!wanted[2] || arguments.mask), arguments.name,
              ": there is no gradient by a tensor that is not given");
}

// Views of (images, channels, height, width), the channels being (classes, depth, maps), as (images, maps, classes,
// height, width, depth), and back; the latter copies where it has to.
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

inline RoiPoolTensors make_roi_pool_tensors(const RoiPoolArguments& arguments) {
  const RoiPoolParams p = make_roi_pool_params(arguments);
  const auto type = arguments.input.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  auto convert = [&](const at::Tensor& tensor) { return tensor.to(type).contiguous(); };
  return {p, with_channels_last(p, arguments.input.to(type)), convert(arguments.rois),
          arguments.offset ? convert(*arguments.offset) : at::Tensor(),
          arguments.mask ? convert(*arguments.mask) : at::Tensor()};
}

}  // namespace ops_dcnv3
