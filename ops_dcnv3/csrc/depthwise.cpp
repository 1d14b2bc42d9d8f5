// depthwise_norm_gelu as a composition, for devices without a kernel of their own for it, and for derivatives.
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/conv2d.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/layer_norm.h>
#include <torch/library.h>

#include <initializer_list>
#include <optional>

#include "layout.h"

namespace ops_dcnv3 {

bool is_differentiated(std::initializer_list<std::optional<at::Tensor>> tensors);  // library.cpp

namespace {

at::Tensor depthwise_norm_gelu(const at::Tensor& input, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                               const at::Tensor& norm_weight, const at::Tensor& norm_bias, double eps,
                               at::IntArrayRef stride, at::IntArrayRef padding) {
  const int64_t channels = input.size(3);
  const auto as_input = [&](const at::Tensor& tensor) { return tensor.to(input.scalar_type()); };
  const std::optional<at::Tensor> own_bias = bias ? std::make_optional(as_input(*bias)) : std::nullopt;
  const at::Tensor output =
      at::conv2d(input.permute({0, 3, 1, 2}), as_input(weight), own_bias, stride, padding, {1, 1}, channels);
  return at::gelu(
      at::layer_norm(output.permute({0, 2, 3, 1}), {channels}, as_input(norm_weight), as_input(norm_bias), eps));
}

at::Tensor differentiable_depthwise_norm_gelu(const at::Tensor& input, const at::Tensor& weight,
                                              const std::optional<at::Tensor>& bias, const at::Tensor& norm_weight,
                                              const at::Tensor& norm_bias, double eps, at::IntArrayRef stride,
                                              at::IntArrayRef padding) {
  if (is_differentiated({input, weight, bias, norm_weight, norm_bias})) {
    return depthwise_norm_gelu(input, weight, bias, norm_weight, norm_bias, eps, stride, padding);
  }
  static const auto of_device = c10::Dispatcher::singleton()
                                    .findSchemaOrThrow("ops_dcnv3::depthwise_norm_gelu", "")
                                    .typed<decltype(depthwise_norm_gelu)>();
  const at::AutoDispatchBelowADInplaceOrView below;
  return of_device.call(input, weight, bias, norm_weight, norm_bias, eps, stride, padding);
}

at::Tensor dense_depthwise_norm_gelu(const at::Tensor& input, const at::Tensor& weight,
                                     const std::optional<at::Tensor>& bias, const at::Tensor& norm_weight,
                                     const at::Tensor& norm_bias, double eps, at::IntArrayRef stride,
                                     at::IntArrayRef padding) {
  const at::Tensor output = depthwise_norm_gelu(input, weight, bias, norm_weight, norm_bias, eps, stride, padding);
  return as_result(output, output.sizes(), output.scalar_type());
}

TORCH_LIBRARY_IMPL(ops_dcnv3, CompositeExplicitAutograd, m) {
  m.impl("depthwise_norm_gelu", dense_depthwise_norm_gelu);
}
TORCH_LIBRARY_IMPL(ops_dcnv3, Autograd, m) { m.impl("depthwise_norm_gelu", differentiable_depthwise_norm_gelu); }

}  // namespace
}  // namespace ops_dcnv3
