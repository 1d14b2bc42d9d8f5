// The schemas of all operators. Each bears the name of the function that users call, and its gradients that name with
// _backward. Kernels are registered in cpu/ and cuda/; fake kernels and autograd in Python, beside these functions.
#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/grad_mode.h>
#include <Python.h>
#include <torch/library.h>

#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>

TORCH_LIBRARY(ops_dcnv3, m) {
  m.def(
      "dcnv3(Tensor input, Tensor offset, Tensor mask, int[2] kernel_size, int[2] stride, int[2] padding, "
      "int[2] dilation, int groups, float offset_scale, bool remove_center, bool softmax) -> Tensor");
  // A gradient that output_mask does not ask for comes back empty, here and below.
  m.def(
      "dcnv3_backward(Tensor grad_output, Tensor input, Tensor offset, Tensor mask, int[2] kernel_size, int[2] stride, "
      "int[2] padding, int[2] dilation, int groups, float offset_scale, bool remove_center, bool softmax, "
      "bool[3] output_mask) "
      "-> (Tensor, Tensor, Tensor)");
  // gelu(layer_norm(depthwise convolution of (N, H, W, C))). For inference: one pass on the CPU, where not
  // differentiated.
  m.def(
      "depthwise_norm_gelu(Tensor input, Tensor weight, Tensor? bias, Tensor norm_weight, Tensor norm_bias, float eps, "
      "int[2] stride, int[2] padding) -> Tensor");
  // A linear layer, for inference; under autocast in its dtype.
  m.def("linear(Tensor input, Tensor weight, Tensor? bias) -> Tensor");
  // The RoI pools. The gradients are those of input, offset and mask, as far as an operator has them.
  m.def(
      "deform_roi_pool(Tensor input, Tensor rois, Tensor? offset, Tensor? mask, int[2] output_size, float "
      "spatial_scale, "
      "int sampling_ratio, float gamma) -> Tensor");
  m.def(
      "deform_roi_pool_backward(Tensor grad_output, Tensor input, Tensor rois, Tensor? offset, Tensor? mask, "
      "int[2] output_size, float spatial_scale, int sampling_ratio, float gamma, bool[3] output_mask) "
      "-> (Tensor, Tensor, Tensor)");
  m.def(
      "ps_roi_pool(Tensor input, Tensor rois, int[2] output_size, float spatial_scale, int sampling_ratio) -> Tensor");
  m.def(
      "ps_roi_pool_backward(Tensor grad_output, Tensor input, Tensor rois, int[2] output_size, float spatial_scale, "
      "int sampling_ratio, bool[1] output_mask) -> Tensor");
  m.def(
      "deform_ps_roi_pool(Tensor input, Tensor rois, Tensor offset, int[2] output_size, float spatial_scale, "
      "int sampling_ratio, float gamma) -> Tensor");
  m.def(
      "deform_ps_roi_pool_backward(Tensor grad_output, Tensor input, Tensor rois, Tensor offset, int[2] output_size, "
      "float spatial_scale, int sampling_ratio, float gamma, bool[2] output_mask) -> (Tensor, Tensor)");
  m.def(
      "ms_deform_attn(Tensor value, Tensor spatial_shapes, Tensor level_start_index, Tensor sampling_locations, "
      "Tensor attention_weights) -> Tensor");
  m.def(
      "ms_deform_attn_backward(Tensor grad_output, Tensor value, Tensor spatial_shapes, Tensor level_start_index, "
      "Tensor sampling_locations, Tensor attention_weights, bool[3] output_mask) -> (Tensor, Tensor, Tensor)");
  // The instruction set that the CPU kernels take on this machine, for tensors of many channels.
  m.def("cpu_capability() -> str");
  // Whether this library has a kernel of its own for an operator on a device, "CPU" or "CUDA".
  m.def("has_kernel(str operator, str device) -> bool");
  // Whether PyTorch has an operator of this name with the signature by which `linear` calls oneDNN.
  m.def("has_product(str operator) -> bool");
}

namespace ops_dcnv3 {
namespace {

bool has_kernel(std::string_view name, std::string_view device) {
  const auto schema = c10::Dispatcher::singleton().findSchemaOrThrow(("ops_dcnv3::" + std::string(name)).c_str(), "");
  return schema.hasKernelForDispatchKey(c10::parseDispatchKey(std::string(device)));
}

}  // namespace

TORCH_LIBRARY_IMPL(ops_dcnv3, CompositeExplicitAutograd, m) { m.impl("has_kernel", has_kernel); }

// Is an operation on these tensors to be differentiated, in either mode? For operators that are composed of PyTorch's
// then.
bool is_differentiated(std::initializer_list<std::optional<at::Tensor>> tensors) {
  for (const auto& tensor : tensors) {
    if (!tensor || !tensor->defined()) continue;
    if ((at::GradMode::is_enabled() && tensor->requires_grad()) || tensor->_fw_grad(0).defined()) return true;
  }
  return false;
}

}  // namespace ops_dcnv3

// An empty Python module: importing it loads this library, which registers the operators.
extern "C" __attribute__((visibility("default"))) PyObject* PyInit__C() {
  static PyModuleDef module = {PyModuleDef_HEAD_INIT, "_C", nullptr, -1, nullptr, nullptr, nullptr, nullptr, nullptr};
  return PyModule_Create(&module);
}
