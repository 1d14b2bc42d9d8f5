// Multi-scale deformable attention on CUDA. A unit, one head of one query, is the work of a few lanes, each with its
// own channels, which are neighbours in memory; every lane finds the points by itself.
#include <cuda_runtime.h>

#include "elements.h"
#include "ms_deform_attn_launch.h"

namespace ops_dcnv3::cuda {
namespace {

// AttentionInputs and AttentionGradients, of one type.
template <typename T>
struct Attention {
  using A = accumulate_t<T>;
  const int64_t *shapes, *starts;
  const T* value;
  const A *locations, *weights;
};

template <typename A>
struct GradientsOf {
  A *value, *locations, *weights;
};

template <typename T>
__device__ inline AttentionLevel level_of(const Attention<T>& in, int64_t level) {
  return {in.shapes[2 * level], in.shapes[2 * level + 1], in.starts[level]};
}

// A point: what it reads of the map of its level, and its weight.
template <typename A>
struct AttentionPoint {
  bool touches;  // the map; if not, y and x are undefined, and
  A outside;     // this is the value: 0, or NaN for a location that is NaN and for a level that is not inside the value
  LinearSample<A, int32_t> y, x;
  A weight;
};

// Point number `point` of all units, levels and points.
template <typename T, typename A = accumulate_t<T>>
__device__ inline AttentionPoint<A> point_of(const MsDeformAttnParams& p, const Attention<T>& in,
                                             const AttentionLevel& level, int64_t point) {
  AttentionPoint<A> found;
  const A x = attention_position(in.locations[2 * point], A(level.width));
  const A y = attention_position(in.locations[2 * point + 1], A(level.height));
  const bool inside = is_inside(level, p.pixels);
  found.touches = inside && touches_image(x, A(level.width)) && touches_image(y, A(level.height));
  found.outside = !inside ? A(0) / A(0) : x != x ? x : y != y ? y : A(0);
  if (found.touches) {
    found.x = linear_sample(x, int32_t(level.width));
    found.y = linear_sample(y, int32_t(level.height));
    found.weight = in.weights[point];
  }
  return found;
}

// Where the corners of a point are, in elements from the start of its image and head.
template <typename A>
__device__ inline void corners_of(const MsDeformAttnParams& p, const AttentionLevel& level,
                                  const AttentionPoint<A>& point, int64_t (&corner)[4]) {
  const int64_t channels = p.heads * p.head_channels;
  corner[0] = (level.start + point.y.first * level.width + point.x.first) * channels;
  corner[1] = corner[0] + point.x.step * channels;
  corner[2] = corner[0] + point.y.step * level.width * channels;
  corner[3] = corner[2] + point.x.step * channels;
}

// Where the value of the image and head of a unit starts, in elements.
__device__ inline int64_t start_of(const MsDeformAttnParams& p, int64_t unit) {
  return (unit / p.heads / p.queries * p.pixels * p.heads + unit % p.heads) * p.head_channels;
}

template <typename T, int kVec>
__global__ void __launch_bounds__(kThreads)
    attention_forward_kernel(MsDeformAttnParams p, Attention<T> in, T* output, int64_t units, int lanes) {
  using A = accumulate_t<T>;
  const int lane = threadIdx.x % lanes;
  const int64_t block_units = blockDim.x / lanes;
  for (int64_t unit = blockIdx.x * block_units + threadIdx.x / lanes; unit < units; unit += gridDim.x * block_units) {
    const T* value = in.value + start_of(p, unit);
    for (int64_t channel = lane * kVec; channel < p.head_channels; channel += lanes * kVec) {
      A sum[kVec] = {};
      for (int64_t i = 0; i < p.levels; ++i) {
        const AttentionLevel level = level_of(in, i);
        for (int64_t k = 0; k < p.points; ++k) {
          const AttentionPoint<A> point = point_of(p, in, level, (unit * p.levels + i) * p.points + k);
          if (!point.touches) {
#pragma unroll
            for (int v = 0; v < kVec; ++v) sum[v] += point.outside;
            continue;
          }
          int64_t corner[4];
          corners_of(p, level, point, corner);
          A weight[4], read[4][kVec];
          bilinear_weights(point.y.weight, point.x.weight, weight);
#pragma unroll
          for (int c = 0; c < 4; ++c) load(value + corner[c] + channel, read[c]);
#pragma unroll
          for (int c = 0; c < 4; ++c) {
            weight[c] *= point.weight;
#pragma unroll
            for (int v = 0; v < kVec; ++v) sum[v] += weight[c] * read[c][v];
          }
        }
      }
      store(sum, output + unit * p.head_channels + channel);
    }
  }
}

// gradients.value is added to with atomics. Any of the gradients may be null.
template <typename T, int kVec>
__global__ void __launch_bounds__(kThreads)
    attention_backward_kernel(MsDeformAttnParams p, Attention<T> in, const T* grad_output,
                              GradientsOf<accumulate_t<T>> gradients, int64_t units, int lanes) {
  using A = accumulate_t<T>;
  const int lane = threadIdx.x % lanes;
  const int64_t block_units = blockDim.x / lanes;
  const bool wants_points = gradients.locations || gradients.weights;
  const bool one_vector = p.head_channels <= lanes * kVec;  // per lane, which then stays in registers
  // Every thread of a block goes the same number of rounds, as they meet in the shuffles.
  for (int64_t first = blockIdx.x * block_units; first < units; first += gridDim.x * block_units) {
    const int64_t unit = first + threadIdx.x / lanes;
    const bool works = unit < units;
    const T* from = grad_output + unit * p.head_channels;
    const int64_t start = works ? start_of(p, unit) : 0;
    A gradient[kVec] = {};
    if (works && lane * kVec < p.head_channels) load(from + lane * kVec, gradient);
    for (int64_t i = 0; i < p.levels * p.points; ++i) {
      const AttentionLevel level = level_of(in, i / p.points);
      AttentionPoint<A> point{};
      if (works) point = point_of(p, in, level, unit * p.levels * p.points + i);
      A product[4] = {};  // of the gradient with each corner
      if (point.touches) {
        int64_t corner[4];
        corners_of(p, level, point, corner);
        A weight[4];
        bilinear_weights(point.y.weight, point.x.weight, weight);
        for (int64_t channel = lane * kVec; channel < p.head_channels; channel += lanes * kVec) {
          if (!one_vector) load(from + channel, gradient);
#pragma unroll
          for (int c = 0; c < 4; ++c) {
            const int64_t at = start + corner[c] + channel;
            if (wants_points) {
              A read[kVec];
              load(in.value + at, read);
#pragma unroll
              for (int v = 0; v < kVec; ++v) product[c] += gradient[v] * read[v];
            }
            if (gradients.value && weight[c] != 0) {
              A term[kVec];
#pragma unroll
              for (int v = 0; v < kVec; ++v) term[v] = weight[c] * point.weight * gradient[v];
              atomic_add(term, gradients.value + at);
            }
          }
        }
      }
      if (!wants_points) continue;
      for (int distance = lanes / 2; distance > 0; distance /= 2) {
#pragma unroll
        for (A& sum : product) sum += __shfl_xor_sync(0xffffffff, sum, distance);
      }
      if (!works || lane != 0) continue;
      A by_weight = point.outside, by_x = point.outside, by_y = point.outside;
      if (point.touches) {
        by_weight = bilinear(point.y.weight, point.x.weight, product);
        by_x = bilinear(point.y.weight, point.x.slope, product) * point.weight * A(level.width);
        by_y = bilinear(point.y.slope, point.x.weight, product) * point.weight * A(level.height);
      }
      const int64_t at = unit * p.levels * p.points + i;
      if (gradients.weights) gradients.weights[at] = by_weight;
      if (gradients.locations) {
        gradients.locations[2 * at] = by_x;
        gradients.locations[2 * at + 1] = by_y;
      }
    }
  }
}

// The gradient of the value without atomics. Each thread owns kVec channels of a band of pixels, and looks at all
// queries, in their order, for what falls on them.
template <typename T, int kVec>
__global__ void __launch_bounds__(kThreads)
    attention_ordered_kernel(MsDeformAttnParams p, Attention<T> in, const T* grad_output, accumulate_t<T>* grad_value,
                             int64_t bands, int64_t band_pixels) {
  using A = accumulate_t<T>;
  const int64_t slices = p.head_channels / kVec, all = p.batch * bands * p.heads * slices;
  for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < all; i += int64_t(gridDim.x) * blockDim.x) {
    const int64_t channel = i % slices * kVec, head = i / slices % p.heads, band = i / slices / p.heads % bands;
    const int64_t image = i / slices / p.heads / bands, step = p.heads * p.head_channels;
    const int64_t begin = band * band_pixels * step, end = begin + band_pixels * step;
    for (int64_t query = 0; query < p.queries; ++query) {
      const int64_t unit = (image * p.queries + query) * p.heads + head;
      A gradient[kVec];
      load(grad_output + unit * p.head_channels + channel, gradient);
      for (int64_t k = 0; k < p.levels * p.points; ++k) {
        const AttentionLevel level = level_of(in, k / p.points);
        const AttentionPoint<A> point = point_of(p, in, level, unit * p.levels * p.points + k);
        if (!point.touches) continue;
        int64_t corner[4];
        corners_of(p, level, point, corner);
        A weight[4];
        bilinear_weights(point.y.weight, point.x.weight, weight);
        for (int c = 0; c < 4; ++c) {
          if (corner[c] < begin || corner[c] >= end || weight[c] == 0) continue;
          A* to = grad_value + start_of(p, unit) + corner[c] + channel;
#pragma unroll
          for (int v = 0; v < kVec; ++v) to[v] += weight[c] * point.weight * gradient[v];
        }
      }
    }
  }
}

template <typename T>
Attention<T> of_type(const AttentionInputs& in) {
  using A = accumulate_t<T>;
  return {in.shapes, in.starts, static_cast<const T*>(in.value), static_cast<const A*>(in.locations),
          static_cast<const A*>(in.weights)};
}

cudaLaunchConfig_t spread_attention(int64_t units, int lanes, cudaStream_t stream, int64_t max_blocks) {
  return launch_config(divide_up(units, kThreads / lanes), kThreads, 0, stream, max_blocks);
}

}  // namespace

cudaError_t launch_ms_deform_attn_forward(const MsDeformAttnParams& p, ElementType type, const AttentionInputs& in,
                                          void* output, cudaStream_t stream, int64_t max_blocks) {
  const int64_t units = p.batch * p.queries * p.heads;
  if (units == 0) return cudaSuccess;
  return with_type(type, p.head_channels, {in.value, output}, [&](auto elements) {
    using T = typename decltype(elements)::type;
    constexpr int kVec = decltype(elements)::vector;
    const int lanes = lanes_for(p.head_channels, kVec);
    const cudaLaunchConfig_t config = spread_attention(units, lanes, stream, max_blocks);
    return cudaLaunchKernelEx(&config, attention_forward_kernel<T, kVec>, p, of_type<T>(in), static_cast<T*>(output),
                              units, lanes);
  });
}

cudaError_t launch_ms_deform_attn_backward(const MsDeformAttnParams& p, ElementType type, const void* grad_output,
                                           const AttentionInputs& in, const AttentionGradients& gradients,
                                           bool deterministic, cudaStream_t stream, int64_t max_blocks) {
  const int64_t units = p.batch * p.queries * p.heads;
  if (units == 0) return cudaSuccess;
  return with_type(type, p.head_channels, {grad_output, in.value, gradients.value}, [&](auto elements) {
    using T = typename decltype(elements)::type;
    using A = accumulate_t<T>;
    constexpr int kVec = decltype(elements)::vector;
    const T* gradient = static_cast<const T*>(grad_output);
    GradientsOf<A> rest{static_cast<A*>(gradients.value), static_cast<A*>(gradients.locations),
                        static_cast<A*>(gradients.weights)};
    if (deterministic && rest.value) {
      const int64_t columns = p.batch * p.heads * p.head_channels / kVec;
      const Bands bands = bands_for(p.pixels, columns);
      const cudaLaunchConfig_t config =
          launch_config(divide_up(columns * bands.count, kThreads), kThreads, 0, stream, max_blocks);
      const cudaError_t error = cudaLaunchKernelEx(&config, attention_ordered_kernel<T, kVec>, p, of_type<T>(in),
                                                   gradient, rest.value, bands.count, bands.rows);
      if (error != cudaSuccess) return error;
      rest.value = nullptr;
    }
    if (!rest.value && !rest.locations && !rest.weights) return cudaSuccess;
    const int lanes = lanes_for(p.head_channels, kVec);
    const cudaLaunchConfig_t config = spread_attention(units, lanes, stream, max_blocks);
    return cudaLaunchKernelEx(&config, attention_backward_kernel<T, kVec>, p, of_type<T>(in), gradient, rest, units,
                              lanes);
  });
}

}  // namespace ops_dcnv3::cuda
