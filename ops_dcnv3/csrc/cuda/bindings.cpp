// All operators on CUDA: from tensors to launches.
#include <ATen/Context.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include "dcnv3_launch.h"
#include "dcnv3_params.h"
#include "layout.h"
#include "ms_deform_attn_launch.h"
#include "ms_deform_attn_params.h"
#include "roi_pool_launch.h"
#include "roi_pool_operators.h"

namespace ops_dcnv3::cuda {
namespace {

ElementType element_type(const at::Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case at::kFloat:
      return ElementType::float32;
    case at::kDouble:
      return ElementType::float64;
    case at::kHalf:
      return ElementType::float16;
    case at::kBFloat16:
      return ElementType::bfloat16;
    default:
      TORCH_CHECK(false, "ops_dcnv3: dtype must be float32, float64, float16 or bfloat16, got ", tensor.scalar_type());
  }
}

void check_points(const Dcnv3Params& p, ElementType type) {
  TORCH_CHECK(p.points <= max_points(type), "dcnv3: on CUDA a window may have ", max_points(type),
              " points of this dtype, got ", p.points);
}

at::Tensor dcnv3(const at::Tensor& input, const at::Tensor& offset, const at::Tensor& mask, at::IntArrayRef kernel_size,
                 at::IntArrayRef stride, at::IntArrayRef padding, at::IntArrayRef dilation, int64_t groups,
                 double offset_scale, bool remove_center, bool softmax) {
  const c10::cuda::CUDAGuard guard(input.device());
  const at::Tensor in = input.contiguous(), off = dense_pixels(offset), modulation = dense_pixels(mask);
  const Dcnv3Params p = make_dcnv3_params(in, off, modulation, kernel_size, stride, padding, dilation, groups,
                                          offset_scale, remove_center, softmax);
  const ElementType type = element_type(in);
  check_points(p, type);
  at::Tensor output = at::empty({p.batch, p.out_height, p.out_width, in.size(3)}, in.options());
  C10_CUDA_CHECK(launch_dcnv3_forward(p, type, in.const_data_ptr(), off.const_data_ptr(), modulation.const_data_ptr(),
                                      output.mutable_data_ptr(), c10::cuda::getCurrentCUDAStream()));
  return output;
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> dcnv3_backward(const at::Tensor& grad_output, const at::Tensor& input,
                                                              const at::Tensor& offset, const at::Tensor& mask,
                                                              at::IntArrayRef kernel_size, at::IntArrayRef stride,
                                                              at::IntArrayRef padding, at::IntArrayRef dilation,
                                                              int64_t groups, double offset_scale, bool remove_center,
                                                              bool softmax, std::array<bool, 3> output_mask) {
  const c10::cuda::CUDAGuard guard(input.device());
  const at::Tensor in = input.contiguous(), off = dense_pixels(offset), modulation = dense_pixels(mask);
  const Dcnv3Params p = make_dcnv3_params(in, off, modulation, kernel_size, stride, padding, dilation, groups,
                                          offset_scale, remove_center, softmax);
  const ElementType type = element_type(in);
  check_points(p, type);
  TORCH_CHECK(grad_output.sizes() == at::IntArrayRef({p.batch, p.out_height, p.out_width, in.size(3)}) &&
                  grad_output.scalar_type() == in.scalar_type() && grad_output.device() == in.device(),
              "dcnv3: grad_output must have the shape, dtype and device of the output, got ", grad_output.sizes(), ", ",
              grad_output.scalar_type(), ", ", grad_output.device());
  const at::Tensor grad_out = grad_output.contiguous();

  // The gradient of the input is a sum of many terms: float for the 16-bit types.
  const auto sum_type = type == ElementType::float64 ? at::kDouble : at::kFloat;
  const auto none = [&] { return at::empty({0}, in.options()); };
  at::Tensor grad_input = output_mask[0] ? at::zeros(in.sizes(), in.options().dtype(sum_type)) : none();
  at::Tensor grad_offset = output_mask[1] ? at::empty(off.sizes(), off.options()) : none();
  at::Tensor grad_mask = output_mask[2] ? at::empty(modulation.sizes(), modulation.options()) : none();
  const Gradients gradients{output_mask[0] ? grad_input.mutable_data_ptr() : nullptr,
                            output_mask[1] ? grad_offset.mutable_data_ptr() : nullptr,
                            output_mask[2] ? grad_mask.mutable_data_ptr() : nullptr};
  C10_CUDA_CHECK(launch_dcnv3_backward(
      p, type, grad_out.const_data_ptr(), in.const_data_ptr(), off.const_data_ptr(), modulation.const_data_ptr(),
      gradients, at::globalContext().deterministicAlgorithms(), c10::cuda::getCurrentCUDAStream()));
  return {as_result(grad_input, grad_input.sizes(), in.scalar_type()), grad_offset, grad_mask};
}

// In memory of (images, maps, classes, height, width, depth), as the kernels take it.
RoiPoolTensors prepare(const RoiPoolArguments& arguments) {
  RoiPoolTensors tensors = make_roi_pool_tensors(arguments);
  tensors.input = tensors.input.contiguous();
  return tensors;
}

const void* pointer(const at::Tensor& tensor) { return tensor.defined() ? tensor.const_data_ptr() : nullptr; }

at::Tensor roi_pool(const RoiPoolArguments& arguments) {
  const c10::cuda::CUDAGuard guard(arguments.input.device());
  const RoiPoolTensors tensors = prepare(arguments);
  const RoiPoolParams& p = tensors.p;
  at::Tensor output = at::empty({p.rois, roi_pool_bins(p), p.classes * p.depth}, tensors.input.options());
  C10_CUDA_CHECK(launch_roi_pool_forward(p, element_type(output), pointer(tensors.input), pointer(tensors.rois),
                                         pointer(tensors.offset), pointer(tensors.mask), output.mutable_data_ptr(),
                                         c10::cuda::getCurrentCUDAStream()));
  return as_result(output.transpose(1, 2), {p.rois, p.classes * p.depth, p.bins_h, p.bins_w},
                   arguments.input.scalar_type());
}

RoiPoolResults roi_pool_backward(const at::Tensor& grad_output, const RoiPoolArguments& arguments,
                                 std::array<bool, 3> wanted) {
  const c10::cuda::CUDAGuard guard(arguments.input.device());
  const RoiPoolTensors tensors = prepare(arguments);
  const RoiPoolParams& p = tensors.p;
  check_roi_pool_gradients(p, grad_output, arguments, wanted);
  const auto options = tensors.input.options();
  const at::Tensor grad_out = grad_output.flatten(2).transpose(1, 2).to(options.dtype()).contiguous();
  auto sums = [&](bool wanted, at::IntArrayRef shape) {
    return wanted ? at::zeros(shape, options) : at::empty({0}, options);
  };
  at::Tensor grad_input = sums(wanted[0], tensors.input.sizes());
  at::Tensor grad_offset = sums(wanted[1], wanted[1] ? arguments.offset->sizes() : at::IntArrayRef());
  at::Tensor grad_mask = sums(wanted[2], {p.rois, p.bins_h, p.bins_w, p.classes});
  auto get = [](bool wanted, at::Tensor& tensor) { return wanted ? tensor.mutable_data_ptr() : nullptr; };
  const Gradients gradients{get(wanted[0], grad_input), get(wanted[1], grad_offset), get(wanted[2], grad_mask)};
  C10_CUDA_CHECK(launch_roi_pool_backward(p, element_type(grad_out), grad_out.const_data_ptr(), pointer(tensors.input),
                                          pointer(tensors.rois), pointer(tensors.offset), pointer(tensors.mask),
                                          gradients, at::globalContext().deterministicAlgorithms(),
                                          c10::cuda::getCurrentCUDAStream()));
  if (wanted[0]) grad_input = with_channels_first(grad_input);
  if (wanted[2]) grad_mask = grad_mask.sum(3);
  auto result = [&](bool wanted, const at::Tensor& gradient, const std::optional<at::Tensor>& like) {
    return as_result(gradient, wanted ? like->sizes() : at::IntArrayRef{0}, arguments.input.scalar_type());
  };
  return {result(wanted[0], grad_input, arguments.input), result(wanted[1], grad_offset, arguments.offset),
          result(wanted[2], grad_mask, arguments.mask)};
}

AttentionInputs pointers(const MsDeformAttnTensors& tensors) {
  return {tensors.shapes.const_data_ptr<int64_t>(), tensors.starts.const_data_ptr<int64_t>(), pointer(tensors.value),
          pointer(tensors.locations), pointer(tensors.weights)};
}

at::Tensor ms_deform_attn(const at::Tensor& value, const at::Tensor& spatial_shapes,
                          const at::Tensor& level_start_index, const at::Tensor& sampling_locations,
                          const at::Tensor& attention_weights) {
  const c10::cuda::CUDAGuard guard(value.device());
  const MsDeformAttnTensors tensors =
      make_ms_deform_attn_tensors(value, spatial_shapes, level_start_index, sampling_locations, attention_weights);
  const MsDeformAttnParams& p = tensors.p;
  at::Tensor output = at::empty({p.batch, p.queries, p.heads * p.head_channels}, value.options());
  C10_CUDA_CHECK(launch_ms_deform_attn_forward(p, element_type(value), pointers(tensors), output.mutable_data_ptr(),
                                               c10::cuda::getCurrentCUDAStream()));
  return output;
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> ms_deform_attn_backward(
    const at::Tensor& grad_output, const at::Tensor& value, const at::Tensor& spatial_shapes,
    const at::Tensor& level_start_index, const at::Tensor& sampling_locations, const at::Tensor& attention_weights,
    std::array<bool, 3> output_mask) {
  const c10::cuda::CUDAGuard guard(value.device());
  const MsDeformAttnTensors tensors =
      make_ms_deform_attn_tensors(value, spatial_shapes, level_start_index, sampling_locations, attention_weights);
  const MsDeformAttnParams& p = tensors.p;
  check_ms_deform_attn_gradient(p, grad_output, value);
  const at::Tensor grad_out = grad_output.contiguous();
  const auto options = tensors.locations.options();  // the type of sums
  auto zeros = [&](bool wanted, const at::Tensor& like) {
    return wanted ? at::zeros(like.sizes(), options) : at::empty({0}, options);
  };
  at::Tensor grad_value = zeros(output_mask[0], value), grad_locations = zeros(output_mask[1], sampling_locations),
             grad_weights = zeros(output_mask[2], attention_weights);
  auto get = [](bool wanted, at::Tensor& tensor) { return wanted ? tensor.mutable_data_ptr() : nullptr; };
  const AttentionGradients gradients{get(output_mask[0], grad_value), get(output_mask[1], grad_locations),
                                     get(output_mask[2], grad_weights)};
  C10_CUDA_CHECK(launch_ms_deform_attn_backward(p, element_type(value), grad_out.const_data_ptr(), pointers(tensors),
                                                gradients, at::globalContext().deterministicAlgorithms(),
                                                c10::cuda::getCurrentCUDAStream()));
  return {grad_value.to(value.scalar_type()), grad_locations.to(sampling_locations.scalar_type()),
          grad_weights.to(value.scalar_type())};
}

TORCH_LIBRARY_IMPL(ops_dcnv3, CUDA, m) {
  m.impl("dcnv3", dcnv3);
  m.impl("dcnv3_backward", dcnv3_backward);
  RoiPoolOperators<roi_pool, roi_pool_backward>::add_to(m);
  m.impl("ms_deform_attn", ms_deform_attn);
  m.impl("ms_deform_attn_backward", ms_deform_attn_backward);
}

}  // namespace
}  // namespace ops_dcnv3::cuda
