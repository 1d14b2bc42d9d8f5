// DCNv3 on the CPU: from tensors to tasks for ATen's threads, and the choice of the instruction set.
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <string>

#include "dcnv3_params.h"
#include "dcnv3_tasks.h"
#include "from_torch.h"

namespace ops_dcnv3 {
namespace {

// A vector wider than the channels of a group would leave all of them to the scalar tail.
template <typename T>
const Dcnv3Tasks<T>& tasks_for(const Dcnv3Params& p) {
#ifdef OPS_DCNV3_X86
  const int64_t group_bytes = p.group_channels * int64_t(sizeof(accumulate_t<T>));
  if (capability() >= Capability::avx512 && group_bytes % 64 == 0) return avx512::dcnv3_tasks<T>();
  if (capability() >= Capability::avx2 && group_bytes >= 32) return avx2::dcnv3_tasks<T>();
#endif
  return portable::dcnv3_tasks<T>();
}

std::string cpu_capability() {
  switch (capability()) {
    case Capability::avx512:
      return "AVX512";
    case Capability::avx2:
      return "AVX2";
    default:
      return "portable";
  }
}

at::Tensor dcnv3(const at::Tensor& input, const at::Tensor& offset, const at::Tensor& mask, at::IntArrayRef kernel_size,
                 at::IntArrayRef stride, at::IntArrayRef padding, at::IntArrayRef dilation, int64_t groups,
                 double offset_scale, bool remove_center, bool softmax) {
  const at::Tensor in = input.contiguous(), off = dense_pixels(offset), modulation = dense_pixels(mask);
  const Dcnv3Params p = make_dcnv3_params(in, off, modulation, kernel_size, stride, padding, dilation, groups,
                                          offset_scale, remove_center, softmax);
  at::Tensor output = at::empty({p.batch, p.out_height, p.out_width, in.size(3)}, in.options());
  if (output.numel() == 0) return output;
  // A task worth starting a thread for does some 10^5 multiplications.
  const int64_t row_work = p.out_width * in.size(3) * p.points * 4, grain = std::max<int64_t>(1, 100000 / row_work);
  OPS_DCNV3_DISPATCH(in.scalar_type(), "dcnv3", [&] {
    const auto& tasks = tasks_for<typename Storage<scalar_t>::type>(p);
    at::parallel_for(0, p.batch * p.out_height, grain, [&](int64_t begin, int64_t end) {
      const auto workspace = allocate_workspace(tasks.workspace_bytes(p));
      tasks.forward(p, storage<scalar_t>(in), storage<scalar_t>(off), storage<scalar_t>(modulation),
                    storage<scalar_t>(output), begin, end, workspace.get());
    });
  });
  return output;
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> dcnv3_backward(const at::Tensor& grad_output, const at::Tensor& input,
                                                              const at::Tensor& offset, const at::Tensor& mask,
                                                              at::IntArrayRef kernel_size, at::IntArrayRef stride,
                                                              at::IntArrayRef padding, at::IntArrayRef dilation,
                                                              int64_t groups, double offset_scale, bool remove_center,
                                                              bool softmax, std::array<bool, 3> output_mask) {
  const at::Tensor in = input.contiguous(), off = dense_pixels(offset), modulation = dense_pixels(mask),
                   grad_out = grad_output.contiguous();
  const Dcnv3Params p = make_dcnv3_params(in, off, modulation, kernel_size, stride, padding, dilation, groups,
                                          offset_scale, remove_center, softmax);
  TORCH_CHECK(grad_output.sizes() == at::IntArrayRef({p.batch, p.out_height, p.out_width, in.size(3)}) &&
                  grad_output.scalar_type() == input.scalar_type(),
              "dcnv3: grad_output must have the shape and dtype of the output, got ", grad_output.sizes(), ", ",
              grad_output.scalar_type());
  auto none = [&] { return at::empty({0}, in.options()); };
  // The gradient of the input is a sum of many terms: float for the 16-bit types.
  const auto sum_type = in.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  at::Tensor grad_input = output_mask[0] ? at::zeros(in.sizes(), in.options().dtype(sum_type)) : none();
  at::Tensor grad_offset = output_mask[1] ? at::empty(off.sizes(), off.options()) : none();
  at::Tensor grad_mask = output_mask[2] ? at::empty(mask.sizes(), mask.options()) : none();
  const bool wants_points = output_mask[1] || output_mask[2];
  if (grad_out.numel() > 0) {
    OPS_DCNV3_DISPATCH(in.scalar_type(), "dcnv3_backward", [&] {
      using T = typename Storage<scalar_t>::type;
      using A = accumulate_t<T>;
      const auto& tasks = tasks_for<T>(p);
      const Dcnv3Gradients<T> all{output_mask[0] ? grad_input.data_ptr<A>() : nullptr,
                                  output_mask[1] ? storage<scalar_t>(grad_offset) : nullptr,
                                  output_mask[2] ? storage<scalar_t>(grad_mask) : nullptr};
      auto run = [&](const Dcnv3Gradients<T>& gradients, int64_t group_begin, int64_t group_end, int64_t row_begin,
                     int64_t row_end) {
        const auto workspace = allocate_workspace(tasks.workspace_bytes(p));
        tasks.backward(p, storage<scalar_t>(in), storage<scalar_t>(off), storage<scalar_t>(modulation),
                       storage<scalar_t>(grad_out), gradients, group_begin, group_end, row_begin, row_end,
                       workspace.get());
      };
      for_gradient_shares(
          p.batch, p.groups, output_mask[0], wants_points,
          [&] {
            at::parallel_for(0, p.batch * p.out_height, 1, [&](int64_t begin, int64_t end) {
              run({nullptr, all.offset, all.mask}, 0, p.groups, begin, end);
            });
          },
          [&](int64_t image, int64_t group_begin, int64_t group_end, bool with_points) {
            run(with_points ? all : Dcnv3Gradients<T>{all.input, nullptr, nullptr}, group_begin, group_end,
                image * p.out_height, (image + 1) * p.out_height);
          });
    });
  }
  return {output_mask[0] ? grad_input.to(in.scalar_type()) : grad_input, grad_offset, grad_mask};
}

TORCH_LIBRARY_IMPL(ops_dcnv3, CPU, m) {
  m.impl("dcnv3", dcnv3);
  m.impl("dcnv3_backward", dcnv3_backward);
}
TORCH_LIBRARY_IMPL(ops_dcnv3, CompositeExplicitAutograd, m) { m.impl("cpu_capability", cpu_capability); }

}  // namespace
}  // namespace ops_dcnv3
