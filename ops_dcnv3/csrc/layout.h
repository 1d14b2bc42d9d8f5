// The layout of what operators return. Included by .cpp files that know torch, for every device.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/DimVector.h>

namespace ops_dcnv3 {

// `tensor` in this shape and dtype, with the strides of a new contiguous tensor: every operator returns such tensors on
// every device, and the fake kernels in Python (`new_empty`) promise them. Copies where it has to.
inline at::Tensor as_result(const at::Tensor& tensor, at::IntArrayRef shape, at::ScalarType dtype) {
  const at::Tensor result = tensor.to(dtype).reshape(shape).contiguous();
  c10::DimVector strides(shape.size());
  int64_t stride = 1;
  for (size_t i = shape.size(); i-- > 0; stride *= shape[i] > 1 ? shape[i] : 1) strides[i] = stride;
  // Along an axis of size 1 a contiguous tensor may have any stride.
  return result.strides() == at::IntArrayRef(strides) ? result : result.as_strided(shape, strides);
}

}  // namespace ops_dcnv3
