// All operators on CUDA: from tensors to launches.
#include <ATen/Context.h>
#include <ATen/Dispatch.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include "dcnv3_launch.h"
#include "dcnv3_params.h"
#include "roi_pool_launch.h"
#include "roi_pool_params.h"

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
      TORCH_CHECK(false, "dcnv3: dtype must be float32, float64, float16 or bfloat16, got ", tensor.scalar_type());
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
  const auto dense_like = [&](const at::Tensor& tensor) {
    return at::empty_like(tensor, tensor.options(), at::MemoryFormat::Contiguous);
  };
  at::Tensor grad_input = output_mask[0] ? at::zeros(in.sizes(), in.options().dtype(sum_type)) : none();
  at::Tensor grad_offset = output_mask[1] ? dense_like(off) : none();
  at::Tensor grad_mask = output_mask[2] ? dense_like(modulation) : none();
  const Gradients gradients{output_mask[0] ? grad_input.mutable_data_ptr() : nullptr,
                            output_mask[1] ? grad_offset.mutable_data_ptr() : nullptr,
                            output_mask[2] ? grad_mask.mutable_data_ptr() : nullptr};
  C10_CUDA_CHECK(launch_dcnv3_backward(
      p, type, grad_out.const_data_ptr(), in.const_data_ptr(), off.const_data_ptr(), modulation.const_data_ptr(),
      gradients, at::globalContext().deterministicAlgorithms(), c10::cuda::getCurrentCUDAStream()));
  return {grad_input.to(in.scalar_type()), grad_offset, grad_mask};
}

at::Tensor roi_pool(const at::Tensor& input, const at::Tensor& rois, const std::optional<at::Tensor>& offset,
                    const std::optional<at::Tensor>& mask, at::IntArrayRef output_size, double spatial_scale,
                    int64_t sampling_ratio, double gamma, bool position_sensitive) {
  const c10::cuda::CUDAGuard guard(input.device());
  RoiPoolTensors tensors = make_roi_pool_tensors(input, rois, offset, mask, output_size, spatial_scale, sampling_ratio,
                                                 gamma, position_sensitive);
  tensors.input = tensors.input.contiguous();
  const RoiPoolParams& p = tensors.p;
  at::Tensor output = at::empty({p.rois, roi_pool_bins(p), p.classes * p.depth}, tensors.input.options());
  AT_DISPATCH_FLOATING_TYPES(output.scalar_type(), "roi_pool", [&] {
    C10_CUDA_CHECK(launch_roi_pool_forward(p, tensors.pointers<scalar_t>(), output.mutable_data_ptr<scalar_t>(),
                                           c10::cuda::getCurrentCUDAStream()));
  });
  return output.transpose(1, 2).to(input.scalar_type()).reshape({p.rois, p.classes * p.depth, p.bins_h, p.bins_w});
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> roi_pool_backward(
    const at::Tensor& grad_output, const at::Tensor& input, const at::Tensor& rois, const std::optional<at::Tensor>& offset,
    const std::optional<at::Tensor>& mask, at::IntArrayRef output_size, double spatial_scale, int64_t sampling_ratio,
    double gamma, bool position_sensitive, std::array<bool, 3> output_mask) {
  const c10::cuda::CUDAGuard guard(input.device());
  RoiPoolTensors tensors = make_roi_pool_tensors(input, rois, offset, mask, output_size, spatial_scale, sampling_ratio,
                                                 gamma, position_sensitive);
  tensors.input = tensors.input.contiguous();
  const RoiPoolParams& p = tensors.p;
  check_roi_pool_gradients(p, grad_output, input, offset, mask, output_mask);
  const auto options = tensors.input.options();
  const at::Tensor grad_out = grad_output.flatten(2).transpose(1, 2).to(options.dtype()).contiguous();
  auto result = [&](bool wanted, at::IntArrayRef shape) {
    return wanted ? at::zeros(shape, options) : at::empty({0}, options);
  };
  at::Tensor grad_input = result(output_mask[0], tensors.input.sizes());
  at::Tensor grad_offset = result(output_mask[1], output_mask[1] ? offset->sizes() : at::IntArrayRef());
  at::Tensor grad_mask = result(output_mask[2], {p.rois, p.bins_h, p.bins_w, p.classes});
  AT_DISPATCH_FLOATING_TYPES(grad_out.scalar_type(), "roi_pool_backward", [&] {
    auto get = [](bool wanted, at::Tensor& tensor) { return wanted ? tensor.mutable_data_ptr<scalar_t>() : nullptr; };
    const RoiPoolGradients<scalar_t> gradients{get(output_mask[0], grad_input), get(output_mask[1], grad_offset),
                                               get(output_mask[2], grad_mask)};
    C10_CUDA_CHECK(launch_roi_pool_backward(p, tensors.pointers<scalar_t>(), grad_out.const_data_ptr<scalar_t>(),
                                            gradients, at::globalContext().deterministicAlgorithms(),
                                            c10::cuda::getCurrentCUDAStream()));
  });
  const auto type = input.scalar_type();
  if (output_mask[0]) grad_input = with_channels_first(grad_input.to(type));
  if (output_mask[2]) grad_mask = grad_mask.sum(3);
  return {grad_input.to(type), grad_offset.to(type), grad_mask.to(type)};
}

TORCH_LIBRARY_IMPL(ops_dcnv3, CUDA, m) {
  m.impl("dcnv3", dcnv3);
  m.impl("dcnv3_backward", dcnv3_backward);
  m.impl("roi_pool", roi_pool);
  m.impl("roi_pool_backward", roi_pool_backward);
}

}  // namespace
}  // namespace ops_dcnv3::cuda
