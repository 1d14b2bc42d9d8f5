// RoI pooling on CUDA. A unit (see roi_pool.h) is the work of a few lanes, each with its own channels, which are
// neighbours in memory; every lane finds the samples by itself, as all lanes of a warp find the same ones at once. A
// RoI whose image does not exist has no samples and gives 0.
#include <cuda_runtime.h>

#include "roi_pool_launch.h"

namespace ops_dcnv3::cuda {
namespace {

constexpr int kChannels = 8;  // of a lane, whose sums are kept in registers

// As `Gradients` of launch.h, of one type.
template <typename T>
struct RoiPoolGradients {
  T *input, *offset, *mask;
};

// Calls each(sample along y, sample along x) for what a unit reads.
template <typename T, typename Each>
__device__ inline void for_each_sample(const RoiPoolParams& p, const RoiPoolUnit<T>& unit, Each each) {
  if (unit.map < 0 || unit.x.count == 0) return;
  for (int64_t i = 0; i < unit.y.count; ++i) {
    const T y = sample_position(unit.y, i);
    if (!touches_border(y, T(p.height))) continue;
    const LinearSample<T, int32_t> along_y = linear_sample_border(y, int32_t(p.height));
    for (int64_t j = 0; j < unit.x.count; ++j) {
      const T x = sample_position(unit.x, j);
      if (touches_border(x, T(p.width))) each(along_y, linear_sample_border(x, int32_t(p.width)));
    }
  }
}

// Where the four corners of a sample are, in elements from the start of the map.
template <typename T>
__device__ inline void find_corners(const RoiPoolParams& p, const LinearSample<T, int32_t>& y,
                                    const LinearSample<T, int32_t>& x, int64_t corner[4]) {
  corner[0] = (y.first * p.width + x.first) * p.depth;
  corner[1] = corner[0] + x.step * p.depth;
  corner[2] = corner[0] + y.step * p.width * p.depth;
  corner[3] = corner[2] + x.step * p.depth;
}

// The unit of this number; beyond the last one, a unit without samples.
template <typename T>
__device__ inline RoiPoolUnit<T> unit_of(const RoiPoolParams& p, const RoiPoolInputs<T>& in, int64_t number) {
  const int64_t bins = roi_pool_bins(p), bin = number / p.classes;
  if (bin >= p.rois * bins) return {-1, {}, {}, T(0)};
  return roi_pool_unit(p, in, bin / bins, bin % bins, number % p.classes);
}

template <typename T>
__device__ inline T count_samples(const RoiPoolUnit<T>& unit) {
  return unit.map < 0 ? T(0) : T(unit.y.count) * T(unit.x.count);
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    roi_forward_kernel(RoiPoolParams p, RoiPoolInputs<T> in, T* output, int64_t units, int lanes) {
  const int lane = threadIdx.x % lanes, step = kChannels * lanes;
  const int64_t block_units = blockDim.x / lanes;
  for (int64_t number = blockIdx.x * block_units + threadIdx.x / lanes; number < units;
       number += gridDim.x * block_units) {
    const RoiPoolUnit<T> unit = unit_of(p, in, number);
    for (int64_t first = lane; first < p.depth; first += step) {
      T sum[kChannels] = {};
      for_each_sample(p, unit, [&](const LinearSample<T, int32_t>& y, const LinearSample<T, int32_t>& x) {
        int64_t corner[4];
        find_corners(p, y, x, corner);
        const T* map = in.input + unit.map + first;
#pragma unroll
        for (int i = 0; i < kChannels; ++i) {
          if (first + i * lanes >= p.depth) break;
          const T* channel = map + i * lanes;
          const T value[4] = {channel[corner[0]], channel[corner[1]], channel[corner[2]], channel[corner[3]]};
          sum[i] += bilinear(y.weight, x.weight, value);
        }
      });
      const T count = count_samples(unit), none = value_outside(unit.y, unit.x);
#pragma unroll
      for (int i = 0; i < kChannels; ++i) {
        if (first + i * lanes >= p.depth) break;
        output[number * p.depth + first + i * lanes] = (count > 0 ? sum[i] / count + none : T(0)) * unit.modulation;
      }
    }
  }
}

// gradients.input is added to with atomics. Any of the gradients may be null.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    roi_backward_kernel(RoiPoolParams p, RoiPoolInputs<T> in, const T* grad_output, RoiPoolGradients<T> gradients,
                        int64_t units, int lanes) {
  const int lane = threadIdx.x % lanes;
  const int64_t block_units = blockDim.x / lanes, bins = roi_pool_bins(p);
  const bool wants_bins = gradients.offset || gradients.mask;
  // Every thread of a block goes the same number of rounds, as they meet in the shuffles.
  for (int64_t start = blockIdx.x * block_units; start < units; start += gridDim.x * block_units) {
    const int64_t number = start + threadIdx.x / lanes;
    const RoiPoolUnit<T> unit = unit_of(p, in, number);
    const T count = count_samples(unit);
    T value = 0, along_x = 0, along_y = 0;
    for_each_sample(p, unit, [&](const LinearSample<T, int32_t>& y, const LinearSample<T, int32_t>& x) {
      int64_t corner[4];
      find_corners(p, y, x, corner);
      T weight[4], product[4] = {};
      bilinear_weights(y.weight, x.weight, weight);
      for (int64_t channel = lane; channel < p.depth; channel += lanes) {
        const T gradient = grad_output[number * p.depth + channel] / count;
        const int64_t at = unit.map + channel;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          if (wants_bins) product[i] += gradient * in.input[at + corner[i]];
          if (gradients.input && weight[i] != 0) {
            atomicAdd(gradients.input + at + corner[i], gradient * unit.modulation * weight[i]);
          }
        }
      }
      value += bilinear(y.weight, x.weight, product);
      along_x += bilinear(y.weight, x.slope, product);
      along_y += bilinear(y.slope, x.weight, product);
    });
    if (!wants_bins) continue;
    for (int distance = lanes / 2; distance > 0; distance /= 2) {
      value += __shfl_xor_sync(0xffffffff, value, distance);
      along_x += __shfl_xor_sync(0xffffffff, along_x, distance);
      along_y += __shfl_xor_sync(0xffffffff, along_y, distance);
    }
    if (number >= units || lane != 0) continue;
    const T none = value_outside(unit.y, unit.x);
    if (gradients.mask) gradients.mask[number] = count > 0 ? value + none : T(0);
    if (gradients.offset) {
      const int64_t bin = number / p.classes, roi = bin / bins;
      T* to = gradients.offset + (roi * p.classes + number % p.classes) * 2 * bins + bin % bins;
      to[0] = count > 0 ? (along_x + none) * unit.x.reach * unit.modulation : T(0);
      to[bins] = count > 0 ? (along_y + none) * unit.y.reach * unit.modulation : T(0);
    }
  }
}

// The gradient of the input without atomics. Each thread owns one channel of some rows of a map, and looks at all RoIs,
// in their order, for what falls on them.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    roi_ordered_grad_input_kernel(RoiPoolParams p, RoiPoolInputs<T> in, const T* grad_output, T* grad_input,
                                  int64_t bands, int64_t band_rows) {
  const int64_t bins = roi_pool_bins(p), maps = roi_pool_maps(p), all = p.batch * maps * p.classes * bands * p.depth;
  for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < all; i += int64_t(gridDim.x) * blockDim.x) {
    const int64_t channel = i % p.depth, begin = i / p.depth % bands * band_rows, slab = i / p.depth / bands;
    const int64_t map = slab / p.classes % maps, image = slab / p.classes / maps;
    for (int64_t roi = 0; roi < p.rois; ++roi) {
      if (roi_image(p, in.rois[5 * roi]) != image) continue;
      for (int64_t bin = maps > 1 ? map : 0; bin < (maps > 1 ? map + 1 : bins); ++bin) {
        const int64_t number = (roi * bins + bin) * p.classes + slab % p.classes;
        const RoiPoolUnit<T> unit = unit_of(p, in, number);
        const T gradient = grad_output[number * p.depth + channel] / count_samples(unit) * unit.modulation;
        for_each_sample(p, unit, [&](const LinearSample<T, int32_t>& y, const LinearSample<T, int32_t>& x) {
          int64_t corner[4];
          find_corners(p, y, x, corner);
          T weight[4];
          bilinear_weights(y.weight, x.weight, weight);
          for (int k = 0; k < 4; ++k) {
            const int64_t row = y.first + k / 2 * y.step;
            if (row < begin || row >= begin + band_rows || weight[k] == 0) continue;
            grad_input[unit.map + channel + corner[k]] += gradient * weight[k];
          }
        });
      }
    }
  }
}

cudaLaunchConfig_t spread_units(int64_t units, int lanes, cudaStream_t stream, int64_t max_blocks) {
  return launch_config(divide_up(units, kThreads / lanes), kThreads, 0, stream, max_blocks);
}

template <typename T>
cudaError_t launch_ordered_grad_input(const RoiPoolParams& p, const RoiPoolInputs<T>& in, const T* grad_output,
                                      T* grad_input, cudaStream_t stream, int64_t max_blocks) {
  const int64_t columns = p.batch * roi_pool_maps(p) * p.classes * p.depth;
  if (columns == 0) return cudaSuccess;
  const Bands bands = bands_for(p.height, columns);
  const cudaLaunchConfig_t config =
      launch_config(divide_up(columns * bands.count, kThreads), kThreads, 0, stream, max_blocks);
  return cudaLaunchKernelEx(&config, roi_ordered_grad_input_kernel<T>, p, in, grad_output, grad_input, bands.count,
                            bands.rows);
}

// Calls launch(inputs of the type), unless there is nothing to pool.
template <typename Launch>
cudaError_t with_inputs(const RoiPoolParams& p, ElementType type, const void* input, const void* rois,
                        const void* offset, const void* mask, Launch launch) {
  if (p.rois * roi_pool_bins(p) * p.classes == 0) return cudaSuccess;
  auto of_type = [&](auto zero) {
    using T = decltype(zero);
    auto cast = [](const void* pointer) { return static_cast<const T*>(pointer); };
    return launch(RoiPoolInputs<T>{cast(input), cast(rois), cast(offset), cast(mask)});
  };
  switch (type) {
    case ElementType::float32:
      return of_type(0.0f);
    case ElementType::float64:
      return of_type(0.0);
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace

cudaError_t launch_roi_pool_forward(const RoiPoolParams& p, ElementType type, const void* input, const void* rois,
                                    const void* offset, const void* mask, void* output, cudaStream_t stream,
                                    int64_t max_blocks) {
  return with_inputs(p, type, input, rois, offset, mask, [&](auto in) {
    using T = typename decltype(in)::type;
    const int64_t units = p.rois * roi_pool_bins(p) * p.classes;
    const int lanes = lanes_for(p.depth, 1);
    const cudaLaunchConfig_t config = spread_units(units, lanes, stream, max_blocks);
    return cudaLaunchKernelEx(&config, roi_forward_kernel<T>, p, in, static_cast<T*>(output), units, lanes);
  });
}

cudaError_t launch_roi_pool_backward(const RoiPoolParams& p, ElementType type, const void* grad_output,
                                     const void* input, const void* rois, const void* offset, const void* mask,
                                     const Gradients& gradients, bool deterministic, cudaStream_t stream,
                                     int64_t max_blocks) {
  return with_inputs(p, type, input, rois, offset, mask, [&](auto in) {
    using T = typename decltype(in)::type;
    const int64_t units = p.rois * roi_pool_bins(p) * p.classes;
    const T* gradient = static_cast<const T*>(grad_output);
    RoiPoolGradients<T> rest{static_cast<T*>(gradients.input), static_cast<T*>(gradients.offset),
                             static_cast<T*>(gradients.mask)};
    if (deterministic && rest.input) {
      const cudaError_t error = launch_ordered_grad_input(p, in, gradient, rest.input, stream, max_blocks);
      if (error != cudaSuccess) return error;
      rest.input = nullptr;
    }
    if (!rest.input && !rest.offset && !rest.mask) return cudaSuccess;
    const int lanes = lanes_for(p.depth, 1);
    const cudaLaunchConfig_t config = spread_units(units, lanes, stream, max_blocks);
    return cudaLaunchKernelEx(&config, roi_backward_kernel<T>, p, in, gradient, rest, units, lanes);
  });
}

}  // namespace ops_dcnv3::cuda
