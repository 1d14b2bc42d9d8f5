// Operator schemas, the only place where they stand. Kernels are registered in cpu/ and cuda/; fake kernels and autograd
// in Python, beside the functions that users call.
#include <Python.h>

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <torch/library.h>

#include <initializer_list>
#include <optional>

TORCH_LIBRARY(ops_dcnv3, m) {
  m.def(
      "dcnv3(Tensor input, Tensor offset, Tensor mask, int[2] kernel_size, int[2] stride, int[2] padding, "
      "int[2] dilation, int groups, float offset_scale, bool remove_center, bool softmax) -> Tensor");
  // Gradients of (input, offset, mask); one that output_mask does not ask for comes back empty.
  m.def(
      "dcnv3_backward(Tensor grad_output, Tensor input, Tensor offset, Tensor mask, int[2] kernel_size, int[2] stride, "
      "int[2] padding, int[2] dilation, int groups, float offset_scale, bool remove_center, bool softmax, "
      "bool[3] output_mask) "
      "-> (Tensor, Tensor, Tensor)");
  // gelu(layer_norm(depthwise convolution of (N, H, W, C))). For inference: one pass on the CPU, where not differentiated.
  m.def(
      "depthwise_norm_gelu(Tensor input, Tensor weight, Tensor? bias, Tensor norm_weight, Tensor norm_bias, float eps, "
      "int[2] stride, int[2] padding) -> Tensor");
  // A linear layer, for inference; under autocast in its dtype.
  m.def("linear(Tensor input, Tensor weight, Tensor? bias) -> Tensor");
  // Every kind of RoI pooling. offset (rois, 2 * classes, bins_h, bins_w); without it there is one class.
  m.def(
      "roi_pool(Tensor input, Tensor rois, Tensor? offset, Tensor? mask, int[2] output_size, float spatial_scale, "
      "int sampling_ratio, float gamma, bool position_sensitive) -> Tensor");
  // Gradients of (input, offset, mask); one that output_mask does not ask for comes back empty.
  m.def(
      "roi_pool_backward(Tensor grad_output, Tensor input, Tensor rois, Tensor? offset, Tensor? mask, int[2] output_size, "
      "float spatial_scale, int sampling_ratio, float gamma, bool position_sensitive, bool[3] output_mask) "
      "-> (Tensor, Tensor, Tensor)");
  // The instruction set that the CPU kernels take on this machine, for tensors of many channels.
  m.def("cpu_capability() -> str");
}

namespace ops_dcnv3 {

// Is an operation on these tensors to be differentiated, in either mode? For operators that are composed of PyTorch's then.
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
