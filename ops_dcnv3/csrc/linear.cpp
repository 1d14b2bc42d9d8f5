// linear: a product of oneDNN where that is faster, PyTorch's own everywhere else and where it is differentiated.
#include <ATen/Context.h>
#include <ATen/autocast_mode.h>
#include <ATen/core/List.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/op_registration/infer_schema.h>
#include <ATen/ops/linear.h>
#include <torch/library.h>

#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>

namespace ops_dcnv3 {

bool is_differentiated(std::initializer_list<std::optional<at::Tensor>> tensors);  // library.cpp

namespace {

using at::Tensor;
using Product = Tensor(const Tensor&, const Tensor&, const std::optional<Tensor>&, std::string_view,
                       c10::List<std::optional<at::Scalar>>, std::optional<std::string_view>);

// An operator of PyTorch that is not documented; none where there is none of this name, or it has another signature.
template <typename Signature>
std::optional<c10::TypedOperatorHandle<Signature>> find_operator(const char* name) {
  const auto handle = c10::Dispatcher::singleton().findSchema({name, ""});
  if (!handle || c10::findSchemaDifferences(c10::inferFunctionSchemaFlattenedReturns<Signature>(), handle->schema())) {
    return std::nullopt;
  }
  try {
    return handle->typed<Signature>();
  } catch (const c10::Error&) {  // it has the schema, but C++ types that differ
    return std::nullopt;
  }
}

// PyTorch's product by oneDNN, which adds the bias as it stores the result. Only on x86: the two have not been compared
// on other processors.
std::optional<c10::TypedOperatorHandle<Product>> find_product() {
#if defined(__x86_64__) || defined(_M_X64)
  if (at::globalContext().hasMKLDNN()) return find_operator<Product>("mkldnn::_linear_pointwise");
#endif
  return std::nullopt;
}

bool has_product(std::string_view name) { return find_operator<Product>(std::string(name).c_str()).has_value(); }

bool multiplies_bfloat16() {
  const auto supported = find_operator<bool()>("mkldnn::_is_mkldnn_bf16_supported");
  return supported && supported->call();
}

bool is_dense(const Tensor& tensor) { return tensor.device().is_cpu() && tensor.layout() == at::kStrided; }

// Whether oneDNN multiplies these in `dtype`. What does not fit together is for PyTorch to refuse.
bool fits(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias, at::ScalarType dtype,
          bool casts) {
  static const bool has_bfloat16 = multiplies_bfloat16();
  const auto is_known = [](at::ScalarType type) {
    return type == at::kFloat || (type == at::kBFloat16 && has_bfloat16);
  };
  const bool same = input.scalar_type() == weight.scalar_type();
  return is_dense(input) && is_dense(weight) && is_known(dtype) && is_known(input.scalar_type()) &&
         is_known(weight.scalar_type()) && (casts || same) && input.dim() > 0 && weight.dim() == 2 &&
         weight.numel() > 0 && input.size(-1) == weight.size(1) &&
         (!bias || (is_dense(*bias) && bias->scalar_type() == weight.scalar_type() && bias->dim() == 1 &&
                    bias->size(0) == weight.size(0)));
}

Tensor linear(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias) {
  static const auto product = find_product();
  const bool casts = at::autocast::is_autocast_enabled(at::kCPU);
  const at::ScalarType dtype = casts ? at::autocast::get_autocast_dtype(at::kCPU) : input.scalar_type();
  if (!product || !at::globalContext().userEnabledMkldnn() || !fits(input, weight, bias, dtype, casts)) {
    return at::linear(input, weight, bias);
  }
  return product->call(input.to(dtype), weight.to(dtype), bias, "none", c10::List<std::optional<at::Scalar>>(), "");
}

Tensor differentiable_linear(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias) {
  if (is_differentiated({input, weight, bias})) return at::linear(input, weight, bias);
  static const auto of_device =
      c10::Dispatcher::singleton().findSchemaOrThrow("ops_dcnv3::linear", "").typed<decltype(linear)>();
  const at::AutoDispatchBelowADInplaceOrView below;
  return of_device.call(input, weight, bias);
}

TORCH_LIBRARY_IMPL(ops_dcnv3, CompositeExplicitAutograd, m) {
  m.impl("linear", linear);
  m.impl("has_product", has_product);
}
TORCH_LIBRARY_IMPL(ops_dcnv3, Autograd, m) { m.impl("linear", differentiable_linear); }

}  // namespace
}  // namespace ops_dcnv3
