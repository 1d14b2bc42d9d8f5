// From tensors to MsDeformAttnParams. Included by .cpp files that know torch, for every device.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

#include <vector>

#include "ms_deform_attn.h"

namespace ops_dcnv3 {

struct MsDeformAttnTensors {
  MsDeformAttnParams p;
  at::Tensor value, locations, weights;  // contiguous; the two last in the type of sums: double for double, else float
  at::Tensor shapes, starts;             // of the levels, contiguous int64
};

// The checks that keep a kernel inside its tensors, but for the sizes of the levels, which may be on a GPU.
// ops_dcnv3.ms_deform_attn says the same at more length before it comes to this.
inline MsDeformAttnTensors make_ms_deform_attn_tensors(const at::Tensor& value, const at::Tensor& spatial_shapes,
                                                       const at::Tensor& level_start_index,
                                                       const at::Tensor& sampling_locations,
                                                       const at::Tensor& attention_weights) {
  TORCH_CHECK(value.dim() == 4, "ms_deform_attn: value must be (N, S, heads, D), got shape ", value.sizes());
  TORCH_CHECK(sampling_locations.dim() == 6,
              "ms_deform_attn: sampling_locations must be (N, Q, heads, levels, points, 2), got shape ",
              sampling_locations.sizes());
  MsDeformAttnParams p{};
  p.batch = value.size(0), p.pixels = value.size(1), p.heads = value.size(2), p.head_channels = value.size(3);
  p.queries = sampling_locations.size(1), p.levels = sampling_locations.size(3), p.points = sampling_locations.size(4);
  TORCH_CHECK(p.levels > 0 && p.points > 0 && p.heads > 0 && p.head_channels > 0,
              "ms_deform_attn: heads, their channels, levels and points must be at least 1, got value ", value.sizes(),
              " and sampling_locations ", sampling_locations.sizes());
  const std::vector<int64_t> weights{p.batch, p.queries, p.heads, p.levels, p.points};
  std::vector<int64_t> locations = weights;
  locations.push_back(2);
  auto check = [](const char* what, const at::Tensor& tensor, at::IntArrayRef shape) {
    TORCH_CHECK(tensor.sizes() == shape, "ms_deform_attn: ", what, " must be ", shape, ", got ", tensor.sizes());
  };
  check("sampling_locations", sampling_locations, locations);
  check("attention_weights", attention_weights, weights);
  check("spatial_shapes", spatial_shapes, {p.levels, 2});
  check("level_start_index", level_start_index, {p.levels});
  TORCH_CHECK(attention_weights.scalar_type() == value.scalar_type() && sampling_locations.is_floating_point() &&
                  at::isIntegralType(spatial_shapes.scalar_type(), false) &&
                  at::isIntegralType(level_start_index.scalar_type(), false),
              "ms_deform_attn: attention_weights must have the dtype of value, sampling_locations a floating-point and "
              "the others an integer one");
  for (const at::Tensor* tensor : {&spatial_shapes, &level_start_index, &sampling_locations, &attention_weights}) {
    TORCH_CHECK(tensor->device() == value.device(), "ms_deform_attn: all tensors must be on one device, got ",
                value.device(), " and ", tensor->device());
  }
  const auto sum_type = value.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  return {p,
          value.contiguous(),
          sampling_locations.to(sum_type).contiguous(),
          attention_weights.to(sum_type).contiguous(),
          spatial_shapes.to(at::kLong).contiguous(),
          level_start_index.to(at::kLong).contiguous()};
}

inline void check_ms_deform_attn_gradient(const MsDeformAttnParams& p, const at::Tensor& grad_output,
                                          const at::Tensor& value) {
  TORCH_CHECK(grad_output.sizes() == at::IntArrayRef({p.batch, p.queries, p.heads * p.head_channels}) &&
                  grad_output.scalar_type() == value.scalar_type() && grad_output.device() == value.device(),
              "ms_deform_attn: grad_output must have the shape, dtype and device of the output, got ",
              grad_output.sizes(), ", ", grad_output.scalar_type(), ", ", grad_output.device());
}

}  // namespace ops_dcnv3
