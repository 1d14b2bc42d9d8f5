// The RoI pools that users call, which share one implementation on every device. Included by .cpp files that know
// torch.
#pragma once

#include <torch/library.h>

#include <array>
#include <optional>
#include <tuple>

#include "roi_pool_params.h"

namespace ops_dcnv3 {

using RoiPoolResults = std::tuple<at::Tensor, at::Tensor, at::Tensor>;  // gradients of input, offset and mask

// Adds the RoI pools to a device: `kForward` pools, `kBackward` gives the gradients that are wanted, and an empty
// tensor for each of the others.
template <at::Tensor (*kForward)(const RoiPoolArguments&),
          RoiPoolResults (*kBackward)(const at::Tensor& grad_output, const RoiPoolArguments&,
                                      std::array<bool, 3> wanted)>
struct RoiPoolOperators {
  using Tensor = at::Tensor;
  using OptionalTensor = std::optional<at::Tensor>;
  using Sizes = at::IntArrayRef;

  static Tensor deform_roi_pool(const Tensor& input, const Tensor& rois, const OptionalTensor& offset,
                                const OptionalTensor& mask, Sizes output_size, double spatial_scale,
                                int64_t sampling_ratio, double gamma) {
    return kForward(
        {"deform_roi_pool", input, rois, offset, mask, output_size, spatial_scale, sampling_ratio, gamma, false});
  }

  static RoiPoolResults deform_roi_pool_backward(const Tensor& grad_output, const Tensor& input, const Tensor& rois,
                                                 const OptionalTensor& offset, const OptionalTensor& mask,
                                                 Sizes output_size, double spatial_scale, int64_t sampling_ratio,
                                                 double gamma, std::array<bool, 3> wanted) {
    return kBackward(
        grad_output,
        {"deform_roi_pool", input, rois, offset, mask, output_size, spatial_scale, sampling_ratio, gamma, false},
        wanted);
  }

  static Tensor ps_roi_pool(const Tensor& input, const Tensor& rois, Sizes output_size, double spatial_scale,
                            int64_t sampling_ratio) {
    return kForward({"ps_roi_pool", input, rois, {}, {}, output_size, spatial_scale, sampling_ratio, 0.0, true});
  }

  static Tensor ps_roi_pool_backward(const Tensor& grad_output, const Tensor& input, const Tensor& rois,
                                     Sizes output_size, double spatial_scale, int64_t sampling_ratio,
                                     std::array<bool, 1> wanted) {
    return std::get<0>(kBackward(
        grad_output, {"ps_roi_pool", input, rois, {}, {}, output_size, spatial_scale, sampling_ratio, 0.0, true},
        {wanted[0], false, false}));
  }

  static Tensor deform_ps_roi_pool(const Tensor& input, const Tensor& rois, const Tensor& offset, Sizes output_size,
                                   double spatial_scale, int64_t sampling_ratio, double gamma) {
    return kForward(
        {"deform_ps_roi_pool", input, rois, offset, {}, output_size, spatial_scale, sampling_ratio, gamma, true});
  }

  static std::tuple<Tensor, Tensor> deform_ps_roi_pool_backward(const Tensor& grad_output, const Tensor& input,
                                                                const Tensor& rois, const Tensor& offset,
                                                                Sizes output_size, double spatial_scale,
                                                                int64_t sampling_ratio, double gamma,
                                                                std::array<bool, 2> wanted) {
    auto [grad_input, grad_offset, none] = kBackward(
        grad_output,
        {"deform_ps_roi_pool", input, rois, offset, {}, output_size, spatial_scale, sampling_ratio, gamma, true},
        {wanted[0], wanted[1], false});
    return {grad_input, grad_offset};
  }

  static void add_to(torch::Library& m) {
    m.impl("deform_roi_pool", deform_roi_pool);
    m.impl("deform_roi_pool_backward", deform_roi_pool_backward);
    m.impl("ps_roi_pool", ps_roi_pool);
    m.impl("ps_roi_pool_backward", ps_roi_pool_backward);
    m.impl("deform_ps_roi_pool", deform_ps_roi_pool);
    m.impl("deform_ps_roi_pool_backward", deform_ps_roi_pool_backward);
  }
};

}  // namespace ops_dcnv3
