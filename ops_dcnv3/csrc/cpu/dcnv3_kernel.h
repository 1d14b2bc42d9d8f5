// DCNv3 on the CPU: the loops, for one instruction set. Included by one .cpp file per instruction set, which sets
// OPS_DCNV3_ISA (a namespace) and OPS_DCNV3_VECTOR_BYTES. Knows no torch and starts no threads.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>

#include "dcnv3_tasks.h"
#include "gather.h"
#include "locate.h"
#include "simd.h"

namespace ops_dcnv3 {
namespace {

// Windows of 3x3, which all published models have, get code of their own, unrolled. For short vectors it is too long to
// pay.
constexpr int kUsualPoints = OPS_DCNV3_VECTOR_BYTES > 16 ? 9 : 0;

template <typename T>
int64_t workspace_bytes(const Dcnv3Params& p) {
  return Tile<T>(p, p.groups, nullptr).lay_out(nullptr);
}

// A tile with the regular grid of the window, for each pixel.
template <typename T>
inline Tile<T> window_tile(const Dcnv3Params& p, int64_t groups, void* memory) {
  using A = accumulate_t<T>;
  Tile<T> tile(p, groups, memory);
  for (int64_t point = 0; point < p.points; ++point) {
    int64_t column, row;
    kernel_grid(p, point, &column, &row);
    tile.grid_x[point] = static_cast<A>(column);
    tile.grid_y[point] = static_cast<A>(row);
  }
  for (int64_t k = p.points; k < tile.pixels * tile.pixel_points; ++k) {
    tile.grid_x[k] = tile.grid_x[k - p.points];
    tile.grid_y[k] = tile.grid_y[k - p.points];
    tile.pixel_x[k] = k < tile.pixel_points ? A(0) : tile.pixel_x[k - tile.pixel_points] + A(p.stride_w);
  }
  return tile;
}

// The modulation from the logits: a softmax over each of `runs` runs of `length` elements. `powers` is room for as
// many. What a vector writes beyond its run, the next run overwrites.
template <typename T>
inline void softmax(const T* logit, int64_t runs, int64_t length, accumulate_t<T>* powers,
                    accumulate_t<T>* modulation) {
  using A = accumulate_t<T>;
  using S = Simd<A>;
  using V = typename S::Vector;
  typename S::Integers lane;
  for (int i = 0; i < S::kWidth; ++i) lane[i] = i;
  auto add = [](V a, V b) { return a + b; };
  auto largest = [](V a, V b) { return a > b ? a : b; };
  // Of a vector at element k of a run: `values` where the run goes on, `beyond` behind its end.
  auto within_run = [&](int64_t k, V values, V beyond) {
    return lane < static_cast<typename S::Integer>(length - k) ? values : beyond;
  };
  auto sum_of_run = [&](const A* run) {
    V sum = S::zero();
    for (int64_t k = 0; k < length; k += S::kWidth) sum += within_run(k, S::load(run + k), S::zero());
    return reduce(sum, add);
  };
  // All at once, as if no logit were large ...
  for (int64_t k = 0; k < runs * length; k += S::kWidth) S::store(exponential(Simd<T>::load(logit + k)), powers + k);
  for (int64_t run = 0; run < runs; ++run, logit += length, powers += length, modulation += length) {
    A sum = sum_of_run(powers);
    // ... and in a run that has others, or small ones alone, once more, from the largest on.
    if (!(sum > A(1e-10) && sum < A(1e30))) {
      const V lowest = S::broadcast(-std::numeric_limits<A>::infinity());
      auto load = [&](int64_t k) { return within_run(k, Simd<T>::load(logit + k), lowest); };
      V top = lowest;
      for (int64_t k = 0; k < length; k += S::kWidth) top = largest(top, load(k));
      top = S::broadcast(reduce(top, largest));
      for (int64_t k = 0; k < length; k += S::kWidth) {
        S::store(within_run(k, exponential(load(k) - top), S::load(powers + k)), powers + k);
      }
      sum = sum_of_run(powers);
    }
    const V scale = S::broadcast(A(1) / sum);
    for (int64_t k = 0; k < length; k += S::kWidth) S::store(S::load(powers + k) * scale, modulation + k);
  }
}

// How many input rows above and below the centre of its window a point usually stays.
inline int64_t usual_reach(const Dcnv3Params& p) {
  const double scale = std::abs(p.offset_scale) < 4 ? std::abs(p.offset_scale) : 4;
  return static_cast<int64_t>(std::min<double>(p.height, 3 + p.dilation_h * (p.kernel_h - 1) / 2 * scale));
}

// Fetches, for a tile at (out_y, out_x), the pixels that no earlier row has read: those as far below as points usually
// reach. No hardware prefetcher foresees them. `image` points to the first of `run` channels.
template <typename T>
__attribute__((always_inline)) inline void prefetch_below(const Dcnv3Params& p, const T* image, int64_t run,
                                                          int64_t out_y, int64_t out_x, int64_t pixels) {
  const int64_t y = window_center(out_y, p.kernel_h, p.stride_h, p.pad_h, p.dilation_h) + usual_reach(p);
  const int64_t begin = std::min(p.width, out_x * p.stride_w), end = std::min(p.width, (out_x + pixels) * p.stride_w);
  if (y < 0 || y >= p.height) return;
  const int64_t channels = p.groups * p.group_channels;
  prefetch(image + (y * p.width + begin) * channels, channels, run, end - begin);
}

// The points of one tile: what offset and mask say of them.
template <typename T>
struct Points {
  int64_t count;
  const T* offset;
  const accumulate_t<T>* modulation;
};

// Of `pixels` pixels; the tensors go on for pixels_left pixels.
template <typename T>
inline Points<T> read_points(const Dcnv3Params& p, const T* offset, const T* mask, int64_t pixels_left, int64_t pixels,
                             Tile<T>& tile) {
  using A = accumulate_t<T>;
  const int64_t run = tile.pixel_points, count = pixels * run;
  const T* offsets = dense(offset, p.offset_stride, 2 * run, pixels, 2 * run * pixels_left, tile.offset);
  const T* masks = dense(mask, p.mask_stride, run, pixels, run * pixels_left, tile.mask);
  if (p.softmax) {
    softmax(masks, count / p.points, p.points, tile.power, tile.modulation);
  } else if constexpr (std::is_same<T, A>::value) {
    return {count, offsets, masks};
  } else {
    for (int64_t k = 0; k < count; k += Simd<T>::kWidth) Simd<A>::store(Simd<T>::load(masks + k), tile.modulation + k);
  }
  return {count, offsets, tile.modulation};
}

// Finds what the points of a tile at output pixel (out_y, out_x) read, as locate() of locate.h does.
template <Corners kCorners, bool kBackward, typename T>
inline bool locate_window(const Dcnv3Params& p, const Points<T>& points, int64_t out_y, int64_t out_x, Tile<T>& tile) {
  using A = accumulate_t<T>;
  using S = Simd<A>;
  using V = typename S::Vector;
  const V center_y = S::broadcast(A(window_center(out_y, p.kernel_h, p.stride_h, p.pad_h, p.dilation_h)));
  const V center_x = S::broadcast(A(window_center(out_x, p.kernel_w, p.stride_w, p.pad_w, p.dilation_w)));
  const V scale = S::broadcast(A(p.offset_scale));
  return locate<kCorners, kBackward>(p, points.count, tile, [&](int64_t k, V* y, V* x, V* modulation) {
    V offset[2];
    Simd<T>::load_pairs(points.offset + 2 * k, offset);
    *y = sampling_position(center_y, S::load(tile.grid_y + k), offset[1], scale);
    *x = sampling_position(center_x + S::load(tile.pixel_x + k), S::load(tile.grid_x + k), offset[0], scale);
    *modulation = S::load(points.modulation + k);
  });
}

template <typename T>
void forward(const Dcnv3Params& p, const T* input, const T* offset, const T* mask, T* output, int64_t row_begin,
             int64_t row_end, void* memory) {
  Tile<T> tile = window_tile<T>(p, p.groups, memory);
  const int64_t channels = p.groups * p.group_channels;
  const bool near = is_near<T>(p), fetches = exceeds_cache<T>(p, 1);
  with_channels(p.group_channels, [&](auto group_channels) {
    constexpr int kChannels = decltype(group_channels)::value;
    for_tiles(p, usual_reach(p), tile.pixels, sizeof(T), row_begin, row_end, [&](const Place& place) {
      const auto [row, x, pixels, next, next_pixels] = place;
      const T* image = input + row / p.out_height * p.height * p.width * channels;
      const int64_t y = row % p.out_height, pixel = row * p.out_width + x;
      if (fetches) {
        prefetch(offset + next * p.offset_stride, p.offset_stride, 2 * tile.pixel_points, next_pixels);
        prefetch(mask + next * p.mask_stride, p.mask_stride, tile.pixel_points, next_pixels);
        prefetch_below(p, image, channels, y, x, pixels);
      }
      const auto points = read_points(p, offset + pixel * p.offset_stride, mask + pixel * p.mask_stride,
                                      p.batch * p.out_height * p.out_width - pixel, pixels, tile);
      auto gather_tile = [&](auto corners) {
        auto* function = p.points == kUsualPoints ? gather<kChannels, kUsualPoints, corners(), false, T, T>
                                                  : gather<kChannels, 0, corners(), false, T, T>;
        function(p, tile, pixels, image, output + pixel * channels);
      };
      if (locate_window<Corners::interior, false>(p, points, y, x, tile)) {
        gather_tile(std::integral_constant<Corners, Corners::interior>());
      } else if (near) {
        locate_window<Corners::near, false>(p, points, y, x, tile);
        gather_tile(std::integral_constant<Corners, Corners::near>());
      } else {
        locate_window<Corners::far, false>(p, points, y, x, tile);
        gather_tile(std::integral_constant<Corners, Corners::far>());
      }
    });
  });
}

// From tile.dot to the gradients by the offsets and by the modulation or the logits.
template <typename T>
inline void backward_points(const Dcnv3Params& p, Tile<T>& tile, int64_t pixels) {
  using A = accumulate_t<T>;
  const auto scale = Simd<A>::broadcast(A(p.offset_scale));
  const int64_t count = pixels * tile.pixel_points;
  point_gradients(p, tile, count, scale, scale);
  if (!p.softmax) return;
  for (int64_t first = 0; first < count; first += p.points) {
    A mean = 0;
    for (int64_t k = first; k < first + p.points; ++k) mean += tile.modulation[k] * tile.grad_modulation[k];
    for (int64_t k = first; k < first + p.points; ++k) {
      tile.grad_modulation[k] = tile.modulation[k] * (tile.grad_modulation[k] - mean);
    }
  }
}

template <typename T>
inline void write_pixels(const accumulate_t<T>* from, int64_t stride, int64_t run, int64_t pixels, T* to) {
  for (int64_t pixel = 0; pixel < pixels; ++pixel, from += run, to += stride) {
    for (int64_t i = 0; i < run; ++i) from_accumulate(from[i], to + i);
  }
}

template <typename T>
void backward(const Dcnv3Params& p, const T* input, const T* offset, const T* mask, const T* grad_output,
              const Dcnv3Gradients<T>& grad, int64_t group_begin, int64_t group_end, int64_t row_begin, int64_t row_end,
              void* memory) {
  Tile<T> tile = window_tile<T>(p, group_end - group_begin, memory);
  const int64_t channels = p.groups * p.group_channels, all_points = p.groups * p.points;
  const int64_t first_channel = group_begin * p.group_channels, first_point = group_begin * p.points;
  const int64_t own_channels = tile.groups * p.group_channels, own_points = tile.pixel_points;
  const bool want_points = grad.offset || grad.mask, fetches = exceeds_cache<T>(p, 3);  // with the gradients
  with_channels(p.group_channels, [&](auto group_channels) {
    constexpr int kChannels = decltype(group_channels)::value;
    auto run = [&](auto corners, auto want_input, auto want_points) {
      constexpr int64_t element_bytes = sizeof(T) + sizeof(accumulate_t<T>);  // with the gradient
      for_tiles(p, usual_reach(p), tile.pixels, element_bytes, row_begin, row_end, [&](const Place& place) {
        const auto [row, x, pixels, next, next_pixels] = place;
        const int64_t start = row / p.out_height * p.height * p.width * channels + first_channel;
        const int64_t y = row % p.out_height, pixel = row * p.out_width + x;
        if (fetches) {
          prefetch(offset + next * p.offset_stride + 2 * first_point, p.offset_stride, 2 * own_points, next_pixels);
          prefetch(mask + next * p.mask_stride + first_point, p.mask_stride, own_points, next_pixels);
          prefetch(grad_output + next * channels + first_channel, channels, own_channels, next_pixels);
          prefetch_below(p, input + start, own_channels, y, x, pixels);
          if (want_input()) prefetch_below(p, grad.input + start, own_channels, y, x, pixels);
        }
        const auto points = read_points(p, offset + pixel * p.offset_stride + 2 * first_point,
                                        mask + pixel * p.mask_stride + first_point,
                                        p.batch * p.out_height * p.out_width - pixel, pixels, tile);
        locate_window<corners(), true>(p, points, y, x, tile);
        scatter<kChannels, corners(), want_input(), want_points()>(p, tile, pixels, input + start,
                                                                   grad_output + pixel * channels + first_channel,
                                                                   want_input() ? grad.input + start : nullptr);
        if (!want_points()) return;
        backward_points(p, tile, pixels);
        const int64_t at = pixel * all_points + first_point;
        if (grad.offset) write_pixels(tile.grad_offset, 2 * all_points, 2 * own_points, pixels, grad.offset + 2 * at);
        if (grad.mask) write_pixels(tile.grad_modulation, all_points, own_points, pixels, grad.mask + at);
      });
    };
    auto run_wanted = [&](auto corners) {
      if (!want_points) {
        run(corners, std::true_type(), std::false_type());
      } else if (!grad.input) {
        run(corners, std::false_type(), std::true_type());
      } else {
        run(corners, std::true_type(), std::true_type());
      }
    };
    if (is_near<T>(p)) {
      run_wanted(std::integral_constant<Corners, Corners::near>());
    } else {
      run_wanted(std::integral_constant<Corners, Corners::far>());
    }
  });
}
}  // namespace

namespace OPS_DCNV3_ISA {
#define OPS_DCNV3_DEFINE_TASKS(T)                                                      \
  template <>                                                                          \
  const Dcnv3Tasks<T>& dcnv3_tasks<T>() {                                              \
    static constexpr Dcnv3Tasks<T> tasks{workspace_bytes<T>, forward<T>, backward<T>}; \
    return tasks;                                                                      \
  }
OPS_DCNV3_DEFINE_TASKS(float)
OPS_DCNV3_DEFINE_TASKS(double)
OPS_DCNV3_DEFINE_TASKS(BFloat16)
OPS_DCNV3_DEFINE_TASKS(Half)
#undef OPS_DCNV3_DEFINE_TASKS
}  // namespace OPS_DCNV3_ISA
}  // namespace ops_dcnv3
