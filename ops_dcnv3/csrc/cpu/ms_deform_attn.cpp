// Multi-scale deformable attention on the CPU: from tensors to tasks for ATen's threads.
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <algorithm>
#include <vector>

#include "from_torch.h"
#include "ms_deform_attn_params.h"
#include "ms_deform_attn_tasks.h"

namespace ops_dcnv3 {
namespace {

// A vector wider than the channels of a head would leave all of them to the scalar tail.
template <typename T>
const MsDeformAttnTasks<T>& tasks_for(const MsDeformAttnParams& p) {
#ifdef OPS_DCNV3_X86
  const int64_t head_bytes = p.head_channels * int64_t(sizeof(accumulate_t<T>));
  if (capability() >= Capability::avx512 && head_bytes % 64 == 0) return avx512::ms_deform_attn_tasks<T>();
  if (capability() >= Capability::avx2 && head_bytes >= 32) return avx2::ms_deform_attn_tasks<T>();
#endif
  return portable::ms_deform_attn_tasks<T>();
}

std::vector<AttentionLevel> read_levels(const MsDeformAttnTensors& tensors) {
  const int64_t *shape = tensors.shapes.const_data_ptr<int64_t>(), *start = tensors.starts.const_data_ptr<int64_t>();
  std::vector<AttentionLevel> levels(tensors.p.levels);
  for (int64_t i = 0; i < tensors.p.levels; ++i) {
    levels[i] = {shape[2 * i], shape[2 * i + 1], start[i]};
    TORCH_CHECK_VALUE(is_inside(levels[i], tensors.p.pixels), "ms_deform_attn: the map of level ", i,
                      " must lie inside the ", tensors.p.pixels, " pixels of value, got a height of ", levels[i].height,
                      ", a width of ", levels[i].width, " and the first pixel ", levels[i].start);
  }
  return levels;
}

template <typename scalar_t, typename T = typename Storage<scalar_t>::type>
MsDeformAttnInputs<T> pointers(const MsDeformAttnTensors& tensors, const std::vector<AttentionLevel>& levels) {
  using A = accumulate_t<T>;
  return {levels.data(), storage<scalar_t>(tensors.value), tensors.locations.const_data_ptr<A>(),
          tensors.weights.const_data_ptr<A>()};
}

at::Tensor ms_deform_attn(const at::Tensor& value, const at::Tensor& spatial_shapes,
                          const at::Tensor& level_start_index, const at::Tensor& sampling_locations,
                          const at::Tensor& attention_weights) {
  const MsDeformAttnTensors tensors =
      make_ms_deform_attn_tensors(value, spatial_shapes, level_start_index, sampling_locations, attention_weights);
  const MsDeformAttnParams& p = tensors.p;
  const std::vector<AttentionLevel> levels = read_levels(tensors);
  at::Tensor output = at::empty({p.batch, p.queries, p.heads * p.head_channels}, value.options());
  if (output.numel() == 0) return output;
  // A task worth starting a thread for does some 10^5 multiplications.
  const int64_t query_work = p.heads * p.head_channels * p.levels * p.points * 4;
  OPS_DCNV3_DISPATCH(value.scalar_type(), "ms_deform_attn", [&] {
    const auto& tasks = tasks_for<typename Storage<scalar_t>::type>(p);
    const auto in = pointers<scalar_t>(tensors, levels);
    at::parallel_for(0, p.batch * p.queries, std::max<int64_t>(1, 100000 / query_work),
                     [&](int64_t begin, int64_t end) {
                       const auto workspace = allocate_workspace(tasks.workspace_bytes(p));
                       tasks.forward(p, in, storage<scalar_t>(output), begin, end, workspace.get());
                     });
  });
  return output;
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> ms_deform_attn_backward(
    const at::Tensor& grad_output, const at::Tensor& value, const at::Tensor& spatial_shapes,
    const at::Tensor& level_start_index, const at::Tensor& sampling_locations, const at::Tensor& attention_weights,
    std::array<bool, 3> output_mask) {
  const MsDeformAttnTensors tensors =
      make_ms_deform_attn_tensors(value, spatial_shapes, level_start_index, sampling_locations, attention_weights);
  const MsDeformAttnParams& p = tensors.p;
  check_ms_deform_attn_gradient(p, grad_output, value);
  const std::vector<AttentionLevel> levels = read_levels(tensors);
  const at::Tensor grad_out = grad_output.contiguous();
  const auto options = tensors.locations.options();  // the type of sums
  auto result = [&](bool wanted, const at::Tensor& like) {
    return wanted ? at::empty(like.sizes(), options) : at::empty({0}, options);
  };
  at::Tensor grad_value = output_mask[0] ? at::zeros(value.sizes(), options) : at::empty({0}, options),
             grad_locations = result(output_mask[1], tensors.locations),
             grad_weights = result(output_mask[2], tensors.weights);
  if (grad_out.numel() > 0) {
    OPS_DCNV3_DISPATCH(value.scalar_type(), "ms_deform_attn_backward", [&] {
      using T = typename Storage<scalar_t>::type;
      using A = accumulate_t<T>;
      const auto& tasks = tasks_for<T>(p);
      const auto in = pointers<scalar_t>(tensors, levels);
      auto get = [](bool wanted, at::Tensor& tensor) { return wanted ? tensor.mutable_data_ptr<A>() : nullptr; };
      const MsDeformAttnGradients<T> all{get(output_mask[0], grad_value), get(output_mask[1], grad_locations),
                                         get(output_mask[2], grad_weights)};
      auto run = [&](const MsDeformAttnGradients<T>& gradients, int64_t head_begin, int64_t head_end, int64_t begin,
                     int64_t end) {
        const auto workspace = allocate_workspace(tasks.workspace_bytes(p));
        tasks.backward(p, in, storage<scalar_t>(grad_out), gradients, head_begin, head_end, begin, end,
                       workspace.get());
      };
      for_gradient_shares(
          p.batch, p.heads, output_mask[0], output_mask[1] || output_mask[2],
          [&] {
            at::parallel_for(0, p.batch * p.queries, 1, [&](int64_t begin, int64_t end) {
              run({nullptr, all.locations, all.weights}, 0, p.heads, begin, end);
            });
          },
          [&](int64_t image, int64_t head_begin, int64_t head_end, bool with_points) {
            run(with_points ? all : MsDeformAttnGradients<T>{all.value, nullptr, nullptr}, head_begin, head_end,
                image * p.queries, (image + 1) * p.queries);
          });
    });
  }
  return {grad_value.to(value.scalar_type()), grad_locations.to(sampling_locations.scalar_type()),
          grad_weights.to(value.scalar_type())};
}

TORCH_LIBRARY_IMPL(ops_dcnv3, CPU, m) {
  m.impl("ms_deform_attn", ms_deform_attn);
  m.impl("ms_deform_attn_backward", ms_deform_attn_backward);
}

}  // namespace
}  // namespace ops_dcnv3
