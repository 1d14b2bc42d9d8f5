// depthwise_norm_gelu on the CPU: from tensors to tasks for ATen's threads.
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>
#include <vector>

#include "depthwise_tasks.h"
#include "from_torch.h"

namespace ops_dcnv3 {
namespace {

template <typename T>
DepthwiseTask<T> task_for(const DepthwiseParams& p) {
#ifdef OPS_DCNV3_X86
  const int64_t bytes = p.channels * int64_t(sizeof(accumulate_t<T>));
  if (capability() >= Capability::avx512 && bytes >= 64) return avx512::depthwise_task<T>();
  if (capability() >= Capability::avx2 && bytes >= 32) return avx2::depthwise_task<T>();
#endif
  return portable::depthwise_task<T>();
}

at::Tensor depthwise_norm_gelu(const at::Tensor& input, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                               const at::Tensor& norm_weight, const at::Tensor& norm_bias, double eps,
                               at::IntArrayRef stride, at::IntArrayRef padding) {
  TORCH_CHECK(input.dim() == 4, "depthwise_norm_gelu: input must be (N, H, W, C), got shape ", input.sizes());
  const int64_t channels = input.size(3);
  TORCH_CHECK(weight.dim() == 4 && weight.size(0) == channels && weight.size(1) == 1,
              "depthwise_norm_gelu: weight must be (", channels, ", 1, height, width), got shape ", weight.sizes());
  TORCH_CHECK(
      stride.size() == 2 && padding.size() == 2 && stride[0] > 0 && stride[1] > 0 && padding[0] >= 0 && padding[1] >= 0,
      "depthwise_norm_gelu: stride must be a positive pair and padding one not negative, got ", stride, " and ",
      padding);
  DepthwiseParams p{};
  p.batch = input.size(0), p.height = input.size(1), p.width = input.size(2), p.channels = channels, p.eps = eps;
  p.kernel_h = weight.size(2), p.kernel_w = weight.size(3);
  p.stride_h = stride[0], p.stride_w = stride[1], p.pad_h = padding[0], p.pad_w = padding[1];
  p.out_height = (p.height + 2 * p.pad_h - p.kernel_h) / p.stride_h + 1;
  p.out_width = (p.width + 2 * p.pad_w - p.kernel_w) / p.stride_w + 1;
  TORCH_CHECK(channels > 0 && p.height + 2 * p.pad_h >= p.kernel_h && p.width + 2 * p.pad_w >= p.kernel_w,
              "depthwise_norm_gelu: the kernel must fit into the padded input, got ", weight.sizes(), " and ",
              input.sizes());

  const at::Tensor in = input.contiguous();
  at::Tensor output = at::empty({p.batch, p.out_height, p.out_width, channels}, in.options());
  if (output.numel() == 0) return output;
  const int64_t taps = p.kernel_h * p.kernel_w, row_work = p.out_width * channels * (taps + 30);
  OPS_DCNV3_DISPATCH(in.scalar_type(), "depthwise_norm_gelu", [&] {
    using T = typename Storage<scalar_t>::type;
    using A = accumulate_t<T>;
    std::vector<A> parameters((taps + 3) * channels);
    auto copy = [&](const at::Tensor& from, int64_t row, int64_t rows) {
      TORCH_CHECK(from.numel() == channels * rows, "depthwise_norm_gelu: bias, norm_weight and norm_bias must be (",
                  channels, "), got shape ", from.sizes());
      const at::Tensor numbers = from.to(c10::CppTypeToScalarType<A>::value).contiguous();
      const A* number = numbers.template const_data_ptr<A>();
      for (int64_t c = 0; c < channels; ++c) {
        for (int64_t i = 0; i < rows; ++i) parameters[(row + i) * channels + c] = *number++;
      }
    };
    copy(weight, 0, taps);
    if (bias) copy(*bias, taps, 1);
    copy(norm_weight, taps + 1, 1);
    copy(norm_bias, taps + 2, 1);
    at::parallel_for(0, p.batch * p.out_height, std::max<int64_t>(1, 100000 / row_work),
                     [&](int64_t begin, int64_t end) {
                       const auto values = allocate_workspace(kDepthwisePixels * channels * int64_t(sizeof(A)));
                       task_for<T>(p)(p, storage<scalar_t>(in), parameters.data(),
                                      storage<scalar_t>(output) + begin * p.out_width * channels, begin, end,
                                      reinterpret_cast<A*>(values.get()));
                     });
  });
  return output;
}

TORCH_LIBRARY_IMPL(ops_dcnv3, CPU, m) { m.impl("depthwise_norm_gelu", depthwise_norm_gelu); }

}  // namespace
}  // namespace ops_dcnv3
