// From tensors and schema arguments to Dcnv3Params. Included by .cpp files that know torch, for every device.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

#include <limits>
#include <vector>

#include "dcnv3.h"

namespace ops_dcnv3 {

inline int64_t output_size(int64_t size, int64_t kernel, int64_t stride, int64_t pad, int64_t dilation) {
  return (size + 2 * pad - dilation * (kernel - 1) - 1) / stride + 1;
}

// The checks that keep a kernel inside its tensors. ops_dcnv3.dcnv3 says the same at more length before it comes to
// this. Takes offset and mask as `dense_pixels` returns them.
inline Dcnv3Params make_dcnv3_params(const at::Tensor& input, const at::Tensor& offset, const at::Tensor& mask,
                                     at::IntArrayRef kernel_size, at::IntArrayRef stride, at::IntArrayRef padding,
                                     at::IntArrayRef dilation, int64_t groups, double offset_scale, bool remove_center,
                                     bool softmax) {
  TORCH_CHECK(input.dim() == 4, "dcnv3: input must be (N, H, W, C), got shape ", input.sizes());
  for (const at::Tensor* tensor : {&offset, &mask}) {
    TORCH_CHECK(tensor->dim() == 4, "dcnv3: offset and mask must have 4 dimensions, got shape ", tensor->sizes());
    TORCH_CHECK(tensor->scalar_type() == input.scalar_type(), "dcnv3: input, offset and mask must have one dtype, got ",
                input.scalar_type(), " and ", tensor->scalar_type());
    TORCH_CHECK(tensor->device() == input.device(), "dcnv3: input, offset and mask must be on one device, got ",
                input.device(), " and ", tensor->device());
  }
  TORCH_CHECK(kernel_size.size() == 2 && stride.size() == 2 && padding.size() == 2 && dilation.size() == 2,
              "dcnv3: kernel_size, stride, padding and dilation must be pairs");
  for (int axis = 0; axis < 2; ++axis) {
    TORCH_CHECK(kernel_size[axis] > 0 && stride[axis] > 0 && dilation[axis] > 0 && padding[axis] >= 0,
                "dcnv3: kernel_size, stride and dilation must be positive and padding not negative, got ", kernel_size,
                ", ", stride, ", ", dilation, ", ", padding);
  }
  TORCH_CHECK(groups > 0 && input.size(3) % groups == 0, "dcnv3: groups must divide the channels, got ", groups,
              " groups and ", input.size(3), " channels");

  Dcnv3Params p{};
  p.batch = input.size(0), p.height = input.size(1), p.width = input.size(2);
  p.groups = groups, p.group_channels = input.size(3) / groups;
  p.kernel_h = kernel_size[0], p.kernel_w = kernel_size[1], p.stride_h = stride[0], p.stride_w = stride[1];
  p.pad_h = padding[0], p.pad_w = padding[1], p.dilation_h = dilation[0], p.dilation_w = dilation[1];
  p.offset_scale = offset_scale, p.remove_center = remove_center, p.softmax = softmax;
  p.points = p.kernel_h * p.kernel_w - (remove_center ? 1 : 0);
  p.out_height = output_size(p.height, p.kernel_h, p.stride_h, p.pad_h, p.dilation_h);
  p.out_width = output_size(p.width, p.kernel_w, p.stride_w, p.pad_w, p.dilation_w);

  constexpr int64_t kLargest = std::numeric_limits<int32_t>::max();
  TORCH_CHECK(p.height < kLargest && p.width < kLargest && p.height * p.width < kLargest,
              "dcnv3: an image must have fewer than ", kLargest, " pixels, got ", p.height, " x ", p.width);
  TORCH_CHECK(p.height > 0 && p.width > 0, "dcnv3: an image must have a pixel, got shape ", input.sizes());
  TORCH_CHECK(p.out_height > 0 && p.out_width > 0, "dcnv3: the window is larger than the padded input ", input.sizes());
  const int64_t points = groups * p.points;
  const std::vector<int64_t> offset_shape{p.batch, p.out_height, p.out_width, 2 * points};
  const std::vector<int64_t> mask_shape{p.batch, p.out_height, p.out_width, points};
  TORCH_CHECK(offset.sizes() == at::IntArrayRef(offset_shape), "dcnv3: offset must be ", at::IntArrayRef(offset_shape),
              ", got ", offset.sizes());
  TORCH_CHECK(mask.sizes() == at::IntArrayRef(mask_shape), "dcnv3: mask must be ", at::IntArrayRef(mask_shape),
              ", got ", mask.sizes());
  p.offset_stride = offset.stride(2), p.mask_stride = mask.stride(2);
  return p;
}

// offset or mask as the kernels take it: dense, or a slice of the channels of a dense tensor, without a copy.
inline at::Tensor dense_pixels(const at::Tensor& tensor) {
  if (tensor.dim() != 4) return tensor;  // make_dcnv3_params has the message
  const int64_t pixel = tensor.stride(2);
  const bool fits = tensor.stride(3) == 1 && pixel >= tensor.size(3) && tensor.stride(1) == tensor.size(2) * pixel &&
                    tensor.stride(0) == tensor.size(1) * tensor.stride(1);
  return fits ? tensor : tensor.contiguous();
}

}  // namespace ops_dcnv3
