// DCNv3 on CUDA. The unit of work is a pair: one output pixel and one group of channels, number pixel * groups + group.
//
// A block takes consecutive pairs. Its threads first work out every point of these pairs, once, into shared memory;
// then a few lanes per pair, each with its own channels, walk over the points. No temporaries in global memory.
#include <cuda_runtime.h>

#include "dcnv3_launch.h"
#include "elements.h"

namespace ops_dcnv3::cuda {
namespace {

constexpr int64_t kSharedBytes = 48 * 1024;  // what a block gets on any GPU without asking

__device__ inline float exponential(float x) { return expf(x); }
__device__ inline double exponential(double x) { return exp(x); }

// One pair: where its tensors start, in elements, and what its points have in common.
template <typename A>
struct Pair {
  int64_t input, offset, mask;
  A center_x, center_y;
  A largest, scale;  // softmax of a logit: exp(logit - largest) * scale
};

template <typename T, typename A = accumulate_t<T>>
__device__ Pair<A> make_pair(const Dcnv3Params& p, const T* mask, int64_t image, int64_t out_y, int64_t out_x,
                             int64_t group) {
  const int64_t pixel = (image * p.out_height + out_y) * p.out_width + out_x;
  Pair<A> pair;
  pair.input = (image * p.height * p.width * p.groups + group) * p.group_channels;
  pair.offset = pixel * p.offset_stride + group * p.points * 2;
  pair.mask = pixel * p.mask_stride + group * p.points;
  pair.center_x = A(window_center(out_x, p.kernel_w, p.stride_w, p.pad_w, p.dilation_w));
  pair.center_y = A(window_center(out_y, p.kernel_h, p.stride_h, p.pad_h, p.dilation_h));
  pair.largest = pair.scale = 0;
  if (p.softmax && p.points > 0) {
    const T* logits = mask + pair.mask;
    pair.largest = widen(logits[0]);
    for (int64_t k = 1; k < p.points; ++k) {
      const A logit = widen(logits[k]);
      pair.largest = logit > pair.largest ? logit : pair.largest;
    }
    A sum = 0;
    for (int64_t k = 0; k < p.points; ++k) sum += exponential(widen(logits[k]) - pair.largest);
    pair.scale = 1 / sum;
  }
  return pair;
}

// One point of a pair: what it reads, and its modulation.
template <typename A>
struct Sample {
  bool touches;  // the image; if not, y and x are undefined, and
  A outside;     // this is the value: 0, or NaN for a position that is NaN
  LinearSample<A, int32_t> y, x;
  A modulation;  // undefined for a point that does not touch the image, but for softmax
};

template <typename T, typename A = accumulate_t<T>>
__device__ inline Sample<A> sample_point(const Dcnv3Params& p, const Pair<A>& pair, const A* grid, int point,
                                         const T* offset, const T* mask) {
  const A scale = A(p.offset_scale);
  const T* at = offset + pair.offset + 2 * point;
  const A x = sampling_position(pair.center_x, grid[2 * point], widen(at[0]), scale);
  const A y = sampling_position(pair.center_y, grid[2 * point + 1], widen(at[1]), scale);
  Sample<A> sample;
  sample.touches = touches_image(x, A(p.width)) && touches_image(y, A(p.height)) && p.height > 0 && p.width > 0;
  sample.outside = x != x ? x : y != y ? y : A(0);
  if (sample.touches) {
    sample.x = linear_sample(x, int32_t(p.width));
    sample.y = linear_sample(y, int32_t(p.height));
  }
  if (p.softmax) {
    sample.modulation = exponential(widen(mask[pair.mask + point]) - pair.largest) * pair.scale;
  } else if (sample.touches) {
    sample.modulation = widen(mask[pair.mask + point]);
  }
  return sample;
}

// A point as the lanes need it.
template <typename A>
struct alignas(16) Point {
  A weight[4];           // of the corners, times the modulation; weight[0] is the value of a point that touches nothing
  int64_t first;         // the first corner, in elements from the start of the tensor; -1: the point touches nothing
  int32_t right, below;  // 0 where that neighbour is outside, else 1
};

// The shared memory of a block.
template <typename A>
struct Shared {
  Point<A>* points;  // [pair][point]
  Pair<A>* pairs;
  A* grid;  // [point][x, y]

  __device__ Shared(void* memory, int pair_count, int point_count) {
    points = static_cast<Point<A>*>(memory);
    pairs = reinterpret_cast<Pair<A>*>(points + pair_count * point_count);
    grid = reinterpret_cast<A*>(pairs + pair_count);
  }
  static constexpr int64_t bytes_per_pair(int64_t point_count) {
    return point_count * sizeof(Point<A>) + sizeof(Pair<A>);
  }
  static constexpr int64_t grid_bytes(int64_t point_count) { return 2 * point_count * sizeof(A); }
  static constexpr int64_t max_points() {  // with room for one pair
    return (kSharedBytes - bytes_per_pair(0)) / (sizeof(Point<A>) + grid_bytes(1));
  }
};

extern __shared__ float4 shared_memory[];

// The regular grid, as numbers of the type that positions have.
template <typename A>
__device__ void fill_grid(const Dcnv3Params& p, A* grid) {
  for (int point = threadIdx.x; point < p.points; point += blockDim.x) {
    int64_t x, y;
    kernel_grid(p, point, &x, &y);
    grid[2 * point] = A(x);
    grid[2 * point + 1] = A(y);
  }
}

// Works out the points of the pairs first, first + 1, ... into shared memory, and waits for it.
template <typename T, typename A = accumulate_t<T>>
__device__ void stage_points(const Dcnv3Params& p, const T* offset, const T* mask, int64_t first, int pairs,
                             const Shared<A>& shared) {
  const int points = int(p.points);
  for (int i = threadIdx.x; i < pairs; i += blockDim.x) {
    const int64_t pixel = (first + i) / p.groups, row = pixel / p.out_width;
    shared.pairs[i] =
        make_pair(p, mask, row / p.out_height, row % p.out_height, pixel % p.out_width, (first + i) % p.groups);
  }
  __syncthreads();
  for (int i = threadIdx.x; i < pairs * points; i += blockDim.x) {
    const Pair<A>& pair = shared.pairs[i / points];
    const Sample<A> sample = sample_point(p, pair, shared.grid, i % points, offset, mask);
    Point<A> point{{sample.outside}, -1, 0, 0};
    if (sample.touches) {
      bilinear_weights(sample.y.weight, sample.x.weight, point.weight);
      for (A& weight : point.weight) weight *= sample.modulation;
      point.first = pair.input + (sample.y.first * p.width + sample.x.first) * p.groups * p.group_channels;
      point.right = sample.x.step;
      point.below = sample.y.step;
    }
    shared.points[i] = point;
  }
  __syncthreads();
}

// Where the four corners of a point are, in elements from the first.
__device__ inline void corner_steps(const Dcnv3Params& p, int32_t right, int32_t below, int64_t (&step)[4]) {
  const int64_t channels = p.groups * p.group_channels;
  step[0] = 0;
  step[1] = right ? channels : 0;
  step[2] = below ? channels * p.width : 0;
  step[3] = step[1] + step[2];
}

__device__ inline int64_t count_pairs(const Dcnv3Params& p) { return p.batch * p.out_height * p.out_width * p.groups; }

template <typename T, int kVec>
__global__ void __launch_bounds__(kThreads) forward_kernel(Dcnv3Params p, const T* input, const T* offset,
                                                           const T* mask, T* output, int block_pairs, int lanes) {
  using A = accumulate_t<T>;
  const int points = int(p.points), pair = threadIdx.x / lanes, lane = threadIdx.x % lanes;
  const Shared<A> shared(shared_memory, block_pairs, points);
  fill_grid(p, shared.grid);

  const int64_t all = count_pairs(p);
  for (int64_t first = int64_t(blockIdx.x) * block_pairs; first < all; first += int64_t(gridDim.x) * block_pairs) {
    const int pairs = all - first < block_pairs ? int(all - first) : block_pairs;
    stage_points(p, offset, mask, first, pairs, shared);
    if (pair < pairs) {
      for (int64_t channel = lane * kVec; channel < p.group_channels; channel += lanes * kVec) {
        A sum[kVec] = {};
        for (int k = 0; k < points; ++k) {
          const Point<A> point = shared.points[pair * points + k];
          if (point.first < 0) {
#pragma unroll
            for (int i = 0; i < kVec; ++i) sum[i] += point.weight[0];
            continue;
          }
          int64_t step[4];
          corner_steps(p, point.right, point.below, step);
          A value[4][kVec];
#pragma unroll
          for (int corner = 0; corner < 4; ++corner) load(input + point.first + step[corner] + channel, value[corner]);
#pragma unroll
          for (int corner = 0; corner < 4; ++corner) {
#pragma unroll
            for (int i = 0; i < kVec; ++i) sum[i] += point.weight[corner] * value[corner][i];
          }
        }
        store(sum, output + (first + pair) * p.group_channels + channel);
      }
    }
    // The barriers of stage_points come before it overwrites these points.
  }
}

// grad_input is added to with atomics. grad_input, and both grad_offset and grad_mask, may be null.
template <typename T, int kVec>
__global__ void __launch_bounds__(kThreads)
    backward_kernel(Dcnv3Params p, const T* grad_output, const T* input, const T* offset, const T* mask,
                    accumulate_t<T>* grad_input, T* grad_offset, T* grad_mask, int block_pairs, int lanes) {
  using A = accumulate_t<T>;
  const int points = int(p.points), pair = threadIdx.x / lanes, lane = threadIdx.x % lanes;
  const Shared<A> shared(shared_memory, block_pairs, points);
  fill_grid(p, shared.grid);
  const bool wants_points = grad_offset || grad_mask;
  const bool one_vector = p.group_channels <= lanes * kVec;  // per lane, which then stays in registers

  const int64_t all = count_pairs(p);
  for (int64_t first = int64_t(blockIdx.x) * block_pairs; first < all; first += int64_t(gridDim.x) * block_pairs) {
    const int pairs = all - first < block_pairs ? int(all - first) : block_pairs;
    stage_points(p, offset, mask, first, pairs, shared);

    const T* gradients = grad_output + (first + pair) * p.group_channels;
    A gradient[kVec] = {};
    if (pair < pairs && lane * kVec < p.group_channels) load(gradients + lane * kVec, gradient);
    for (int k = 0; k < points; ++k) {
      // The scalar product of the gradient with each corner; every lane of the warp takes part in adding them up.
      A product[4] = {};
      if (pair < pairs && shared.points[pair * points + k].first >= 0) {
        const Point<A> point = shared.points[pair * points + k];
        int64_t step[4];
        corner_steps(p, point.right, point.below, step);
        for (int64_t channel = lane * kVec; channel < p.group_channels; channel += lanes * kVec) {
          if (!one_vector) load(gradients + channel, gradient);
          const int64_t start = point.first + channel;
          if (wants_points) {
            A value[4][kVec];
#pragma unroll
            for (int corner = 0; corner < 4; ++corner) load(input + start + step[corner], value[corner]);
#pragma unroll
            for (int corner = 0; corner < 4; ++corner) {
#pragma unroll
              for (int i = 0; i < kVec; ++i) product[corner] += gradient[i] * value[corner][i];
            }
          }
          if (grad_input) {
#pragma unroll
            for (int corner = 0; corner < 4; ++corner) {
              if (point.weight[corner] == 0) continue;  // outside the image, or on the line between whole pixels
              A term[kVec];
#pragma unroll
              for (int i = 0; i < kVec; ++i) term[i] = point.weight[corner] * gradient[i];
              atomic_add(term, grad_input + start + step[corner]);
            }
          }
        }
      }
      if (wants_points) {
        for (int distance = lanes / 2; distance > 0; distance /= 2) {
#pragma unroll
          for (A& sum : product) sum += __shfl_xor_sync(0xffffffff, sum, distance);
        }
        // The weights have served their turn: the products take their place.
        __syncwarp();
        if (pair < pairs && lane == 0) {
#pragma unroll
          for (int corner = 0; corner < 4; ++corner) shared.points[pair * points + k].weight[corner] = product[corner];
        }
      }
    }
    __syncthreads();
    if (!wants_points) continue;

    // One thread per point again, which reads offset and mask again: cheaper than the shared memory to keep them.
    for (int i = threadIdx.x; i < pairs * points; i += blockDim.x) {
      const Sample<A> sample = sample_point(p, shared.pairs[i / points], shared.grid, i % points, offset, mask);
      A(&weight)[4] = shared.points[i].weight;
      A value = sample.outside, slope_x = value, slope_y = value;
      if (sample.touches) {
        const A scale = sample.modulation * A(p.offset_scale);
        value = bilinear(sample.y.weight, sample.x.weight, weight);
        slope_x = bilinear(sample.y.weight, sample.x.slope, weight) * scale;
        slope_y = bilinear(sample.y.slope, sample.x.weight, weight) * scale;
      }
      if (grad_offset) {
        const A slopes[2] = {slope_x, slope_y};
        store(slopes, grad_offset + (first * points + i) * 2);
      }
      if (grad_mask && !p.softmax) narrow(value, grad_mask + first * points + i);
      if (grad_mask && p.softmax) {
        weight[0] = value;
        weight[1] = sample.modulation;
      }
    }
    if (grad_mask && p.softmax) {
      __syncthreads();
      for (int i = threadIdx.x; i < pairs; i += blockDim.x) {
        A mean = 0;
        for (int k = 0; k < points; ++k) {
          const Point<A>& point = shared.points[i * points + k];
          mean += point.weight[0] * point.weight[1];
        }
        shared.pairs[i].scale = mean;
      }
      __syncthreads();
      for (int i = threadIdx.x; i < pairs * points; i += blockDim.x) {
        const Point<A>& point = shared.points[i];
        narrow(point.weight[1] * (point.weight[0] - shared.pairs[i / points].scale), grad_mask + first * points + i);
      }
    }
    __syncthreads();  // before the next pairs overwrite these
  }
}

// The gradient of the input without atomics. Each thread owns kVec channels of some rows of an image, and looks at all
// output pixels, in their order, for what falls on them.
template <typename T, int kVec>
__global__ void __launch_bounds__(kThreads)
    ordered_grad_input_kernel(Dcnv3Params p, const T* grad_output, const T* offset, const T* mask,
                              accumulate_t<T>* grad_input, int64_t bands, int64_t band_rows) {
  using A = accumulate_t<T>;
  A* grid = reinterpret_cast<A*>(shared_memory);
  fill_grid(p, grid);
  __syncthreads();
  const int64_t channels = p.groups * p.group_channels, slices = channels / kVec, all = p.batch * bands * slices;
  for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < all; i += int64_t(gridDim.x) * blockDim.x) {
    const int64_t channel = i % slices * kVec, group = channel / p.group_channels, band = i / slices % bands;
    const int64_t image = i / slices / bands, begin = band * band_rows, end = begin + band_rows;
    for (int64_t out_y = 0; out_y < p.out_height; ++out_y) {
      for (int64_t out_x = 0; out_x < p.out_width; ++out_x) {
        const Pair<A> pair = make_pair(p, mask, image, out_y, out_x, group);
        A gradient[kVec];
        load(grad_output + ((image * p.out_height + out_y) * p.out_width + out_x) * channels + channel, gradient);
        for (int k = 0; k < p.points; ++k) {
          const Sample<A> sample = sample_point(p, pair, grid, k, offset, mask);
          if (!sample.touches) continue;
          for (int corner = 0; corner < 4; ++corner) {
            const int below = corner / 2, right = corner % 2;
            const int64_t row = sample.y.first + below * sample.y.step, column = sample.x.first + right * sample.x.step;
            const A weight = sample.y.weight[below] * sample.x.weight[right] * sample.modulation;
            if (row < begin || row >= end || weight == 0) continue;
            A* to = grad_input + ((image * p.height + row) * p.width + column) * channels + channel;
#pragma unroll
            for (int v = 0; v < kVec; ++v) to[v] += weight * gradient[v];
          }
        }
      }
    }
  }
}

// How the pairs are spread over blocks and lanes.
struct Spread {
  int block_pairs, lanes;  // block_pairs is 0 if there are too many points for shared memory
  cudaLaunchConfig_t config;
};

template <typename A>
Spread spread_pairs(const Dcnv3Params& p, int vector, cudaStream_t stream, int64_t max_blocks) {
  if (p.points > Shared<A>::max_points()) return {};
  const int lanes = lanes_for(p.group_channels, vector);
  const int64_t grid_bytes = Shared<A>::grid_bytes(p.points), pair_bytes = Shared<A>::bytes_per_pair(p.points);
  const int64_t fit = (kSharedBytes - grid_bytes) / pair_bytes;
  const int pairs = int(fit < kThreads / lanes ? fit : kThreads / lanes);
  const int64_t blocks = divide_up(p.batch * p.out_height * p.out_width * p.groups, pairs);
  return {pairs, lanes,
          launch_config(blocks, int(divide_up(pairs * lanes, kWarp)) * kWarp, pairs * pair_bytes + grid_bytes, stream,
                        max_blocks)};
}

template <typename T, int kVec>
cudaError_t launch_ordered_grad_input(const Dcnv3Params& p, const T* grad_output, const T* offset, const T* mask,
                                      accumulate_t<T>* grad_input, cudaStream_t stream, int64_t max_blocks) {
  const int64_t slices = p.groups * p.group_channels / kVec, columns = p.batch * slices;
  if (columns == 0 || p.height == 0) return cudaSuccess;
  const Bands bands = bands_for(p.height, columns);
  const cudaLaunchConfig_t config = launch_config(divide_up(columns * bands.count, kThreads), kThreads,
                                                  Shared<accumulate_t<T>>::grid_bytes(p.points), stream, max_blocks);
  return cudaLaunchKernelEx(&config, ordered_grad_input_kernel<T, kVec>, p, grad_output, offset, mask, grad_input,
                            bands.count, bands.rows);
}

}  // namespace

int64_t max_points(ElementType type) {
  return type == ElementType::float64 ? Shared<double>::max_points() : Shared<float>::max_points();
}

cudaError_t launch_dcnv3_forward(const Dcnv3Params& p, ElementType type, const void* input, const void* offset,
                                 const void* mask, void* output, cudaStream_t stream, int64_t max_blocks) {
  return with_type(type, p.group_channels, {input, output}, [&](auto elements) {
    using T = typename decltype(elements)::type;
    constexpr int kVec = decltype(elements)::vector;
    const Spread spread = spread_pairs<accumulate_t<T>>(p, kVec, stream, max_blocks);
    if (spread.block_pairs == 0) return cudaErrorInvalidConfiguration;
    if (spread.config.gridDim.x == 0) return cudaSuccess;
    return cudaLaunchKernelEx(&spread.config, forward_kernel<T, kVec>, p, static_cast<const T*>(input),
                              static_cast<const T*>(offset), static_cast<const T*>(mask), static_cast<T*>(output),
                              spread.block_pairs, spread.lanes);
  });
}

cudaError_t launch_dcnv3_backward(const Dcnv3Params& p, ElementType type, const void* grad_output, const void* input,
                                  const void* offset, const void* mask, const Gradients& gradients, bool deterministic,
                                  cudaStream_t stream, int64_t max_blocks) {
  return with_type(type, p.group_channels, {grad_output, input, gradients.input}, [&](auto elements) {
    using T = typename decltype(elements)::type;
    constexpr int kVec = decltype(elements)::vector;
    const Spread spread = spread_pairs<accumulate_t<T>>(p, kVec, stream, max_blocks);
    if (spread.block_pairs == 0) return cudaErrorInvalidConfiguration;
    if (spread.config.gridDim.x == 0) return cudaSuccess;
    const T *gradient = static_cast<const T*>(grad_output), *offsets = static_cast<const T*>(offset);
    const T* modulation = static_cast<const T*>(mask);
    auto* grad_input = static_cast<accumulate_t<T>*>(gradients.input);
    if (deterministic && grad_input) {
      const cudaError_t error =
          launch_ordered_grad_input<T, kVec>(p, gradient, offsets, modulation, grad_input, stream, max_blocks);
      if (error != cudaSuccess) return error;
      grad_input = nullptr;
    }
    if (!grad_input && !gradients.offset && !gradients.mask) return cudaSuccess;
    return cudaLaunchKernelEx(&spread.config, backward_kernel<T, kVec>, p, gradient, static_cast<const T*>(input),
                              offsets, modulation, grad_input, static_cast<T*>(gradients.offset),
                              static_cast<T*>(gradients.mask), spread.block_pairs, spread.lanes);
  });
}

}  // namespace ops_dcnv3::cuda
