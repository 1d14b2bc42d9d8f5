// For operators that are composed of PyTorch's where a derivative is wanted. Included by .cpp files that know torch.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>

#include <initializer_list>
#include <optional>

namespace ops_dcnv3 {

// Is an operation on these tensors to be differentiated, in either mode?
inline bool is_differentiated(std::initializer_list<std::optional<at::Tensor>> tensors) {
  for (const auto& tensor : tensors) {
    if (!tensor || !tensor->defined()) continue;
    if ((at::GradMode::is_enabled() && tensor->requires_grad()) || tensor->_fw_grad(0).defined()) return true;
  }
  return false;
}

}  // namespace ops_dcnv3
