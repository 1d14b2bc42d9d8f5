// The loops over the channels of located points (locate.h), for one instruction set: gather() for the output, scatter()
// for the gradients. Knows no torch; included as dcnv3_kernel.h says.
#pragma once

#include <cstring>
#include <type_traits>

#include "locate.h"

namespace ops_dcnv3 {
namespace {

// Calls function(channels of a group as a constant), 0 being any other number.
template <typename Function>
inline void with_channels(int64_t group_channels, Function function) {
  switch (group_channels) {
    case 8:
      return function(std::integral_constant<int, 8>());
    case 16:
      return function(std::integral_constant<int, 16>());
    case 32:
      return function(std::integral_constant<int, 32>());
    case 64:
      return function(std::integral_constant<int, 64>());
    default:
      return function(std::integral_constant<int, 0>());
  }
}

// One tile of the output: the sum over the points of what they read; kAdds: added to what is there. `image` and
// `output` point to its first channel. kPoints: points of each group at a pixel, 0 for any number.
template <int kChannels, int kPoints, Corners kCorners, bool kAdds, typename T, typename Output>
inline void gather(const SamplingParams& p, const Tile<T>& tile, int64_t pixels, const T* image, Output* output) {
  using A = accumulate_t<T>;
  using S = Simd<T>;
  using V = typename S::Vector;
  const int64_t group_channels = kChannels ? kChannels : p.group_channels, channels = p.groups * group_channels;
  const int64_t points = kPoints ? kPoints : p.points, row = p.width * channels;
  // Points outside the image are read from these zeros: their weights are 0, but 0 times a NaN of the image would be
  // NaN. Without a branch, as such points come at random.
  static constexpr T kNothing[4 * S::kWidth] = {};
  int64_t first = 0;
  const A* weights = tile.weight;
  const auto* places = tile.pixel;
  for (int64_t pixel = 0; pixel < pixels; ++pixel) {
    const T* group_image = image;
    for (int64_t group = 0; group < p.groups; ++group) {
      for_channels<S>(
          group_channels,
          [&](int64_t c, auto vectors) {
            // Sums of their own for the corners, so that none waits for another. The first point starts them.
            constexpr int count = decltype(vectors)::value, sums = 4 / count;
            V total[count][sums];
            const T* channel = group_image + c;
            const T* shifted[4] = {channel, channel + channels, channel + row, channel + row + channels};
            auto add = [&](int64_t k, auto starts) __attribute__((always_inline)) {
              int64_t at[4];
              if constexpr (kCorners == Corners::interior) {
                at[0] = at[1] = at[2] = at[3] = places[k] * channels;
              } else {
                corners<kCorners>(tile, first + k, channels, row, at);
              }
              const T* base = places[k] >= 0 ? channel : kNothing;
              V weight[4];
              spread_for<T>(weights + 4 * k, weight);
              for (int corner = 0; corner < 4; ++corner) {
                const T* from = (kCorners == Corners::interior ? shifted[corner] : base) + at[corner];
                for (int v = 0; v < count; ++v) {
                  const V value = S::load(from + v * S::kWidth);
                  V& sum = total[v][corner % sums];
                  if (starts() && corner < sums) {
                    sum = weight[corner] * value;
                  } else {
                    sum += weight[corner] * value;
                  }
                }
              }
            };
            add(0, std::true_type());
#pragma GCC unroll 8
            for (int64_t k = 1; k < points; ++k) add(k, std::false_type());
            for (int v = 0; v < count; ++v) {
              Output* to = output + c + v * S::kWidth;
              const V sum = sum_of<sums>(total[v]);
              Simd<Output>::store(kAdds ? Simd<Output>::load(to) + sum : sum, to);
            }
          },
          [&](int64_t c) {
            A total = kAdds ? to_accumulate(output[c]) : A(0);
            for (int64_t k = 0; k < points; ++k) {
              int64_t at[4];
              corners<kCorners>(tile, first + k, channels, row, at);
              const T* base = kCorners == Corners::interior || places[k] >= 0 ? group_image + c : kNothing;
              for (int corner = 0; corner < 4; ++corner) {
                total += weights[4 * k + corner] * to_accumulate(base[at[corner]]);
              }
            }
            from_accumulate(total, output + c);
          });
      first += points, places += points, weights += 4 * points;
      group_image += group_channels, output += group_channels;
    }
  }
}

// The backward pass of gather() in one tile: adds to grad_input, and writes tile.dot, from which the gradients by
// positions and modulation follow, as far as they are wanted. `image`, `grad_output` and `grad_input` point to the
// first channel of its groups.
template <int kChannels, Corners kCorners, bool kWantInput, bool kWantPoints, typename T>
inline void scatter(const SamplingParams& p, const Tile<T>& tile, int64_t pixels, const T* image, const T* grad_output,
                    accumulate_t<T>* grad_input) {
  using A = accumulate_t<T>;
  using S = Simd<T>;
  using SA = Simd<A>;
  using V = typename S::Vector;
  const int64_t group_channels = kChannels ? kChannels : p.group_channels, channels = p.groups * group_channels;
  const int64_t row = p.width * channels;
  if (kWantPoints) std::memset(tile.dot, 0, 4 * pixels * tile.pixel_points * sizeof(A));
  for (int64_t pixel = 0, first = 0; pixel < pixels; ++pixel, grad_output += channels) {
    for (int64_t group = 0; group < tile.groups; ++group, first += p.points) {
      const int64_t group_channel = group * group_channels;
      for_channels<S>(
          group_channels,
          [&](int64_t in_group, auto vectors) {
            constexpr int count = decltype(vectors)::value;
            const int64_t c = group_channel + in_group;
            V grad[count];
            for (int v = 0; v < count; ++v) grad[v] = S::load(grad_output + c + v * S::kWidth);
            for (int64_t k = first; k < first + p.points; ++k) {
              if (tile.pixel[k] < 0) continue;
              int64_t at[4];
              corners<kCorners>(tile, k, channels, row, at);
              if (kWantPoints) {
                V product[4];
                for (int corner = 0; corner < 4; ++corner) {
                  const T* from = image + at[corner] + c;
                  product[corner] = grad[0] * S::load(from);
                  for (int v = 1; v < count; ++v) product[corner] += grad[v] * S::load(from + v * S::kWidth);
                }
                add_sums(product[0], product[1], product[2], product[3], tile.dot + 4 * k);
              }
              if (kWantInput) {
                V weight[4];
                spread(tile.weight + 4 * k, weight);
                for (int corner = 0; corner < 4; ++corner) {
                  A* to = grad_input + at[corner] + c;
                  for (int v = 0; v < count; ++v) {
                    SA::store(SA::load(to + v * S::kWidth) + weight[corner] * grad[v], to + v * S::kWidth);
                  }
                }
              }
            }
          },
          [&](int64_t in_group) {
            const int64_t c = group_channel + in_group;
            const A grad = to_accumulate(grad_output[c]);
            for (int64_t k = first; k < first + p.points; ++k) {
              if (tile.pixel[k] < 0) continue;
              int64_t at[4];
              corners<kCorners>(tile, k, channels, row, at);
              for (int corner = 0; corner < 4; ++corner) {
                if (kWantPoints) tile.dot[4 * k + corner] += grad * to_accumulate(image[at[corner] + c]);
                if (kWantInput) grad_input[at[corner] + c] += tile.weight[4 * k + corner] * grad;
              }
            }
          });
    }
  }
}

// From tile.dot, which scatter() wrote, to the gradients of `count` points by their positions, times `scale_y` and
// `scale_x`, and by their modulation: tile.grad_offset, (x, y), and tile.grad_modulation.
template <typename T, typename V = typename Simd<accumulate_t<T>>::Vector>
inline void point_gradients(const SamplingParams& p, Tile<T>& tile, int64_t count, V scale_y, V scale_x) {
  using S = Simd<accumulate_t<T>>;
  using I = typename S::Integers;
  const I rows = I{} + typename S::Integer(p.height), columns = I{} + typename S::Integer(p.width);
  for (int64_t k = 0; k < count; k += S::kWidth) {
    V four[4];  // (corner 0, 1, 2, 3) of a point, then of the next
    for (int i = 0; i < 4; ++i) four[i] = S::load(tile.dot + 4 * k + i * S::kWidth);
    const V left[2] = {even(four[0], four[1]), even(four[2], four[3])};
    const V right[2] = {odd(four[0], four[1]), odd(four[2], four[3])};
    const V corner[4] = {even(left[0], left[1]), even(right[0], right[1]), odd(left[0], left[1]),
                         odd(right[0], right[1])};
    const auto along_y = linear_sample(S::load(tile.y + k), rows),
               along_x = linear_sample(S::load(tile.x + k), columns);
    const V gain = S::load(tile.gain + k), value = bilinear(along_y.weight, along_x.weight, corner);
    const V grad_y = bilinear(along_y.slope, along_x.weight, corner) * gain * scale_y;
    const V grad_x = bilinear(along_y.weight, along_x.slope, corner) * gain * scale_x;
    I pixel;
    std::memcpy(&pixel, tile.pixel + k, sizeof(pixel));
    S::store(pixel < 0 ? gain : value, tile.grad_modulation + k);
    S::store(zip_low(grad_x, grad_y), tile.grad_offset + 2 * k);
    S::store(zip_high(grad_x, grad_y), tile.grad_offset + 2 * k + S::kWidth);
  }
}
}  // namespace
}  // namespace ops_dcnv3
