// DCNv3 on the CPU: the loops, for one instruction set. Included by one .cpp file per instruction set, which sets
// OPS_DCNV3_ISA (a namespace) and OPS_DCNV3_VECTOR_BYTES. Knows no torch and starts no threads.
//
// The work goes tile by tile, a tile being a run of output pixels in one row, small enough for the first-level cache. First
// the points: `locate` finds, a vector of points at a time, which pixels each one reads and with which weights. Then the
// channels: a point is four rows of channels and four weights.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>

#include "dcnv3_tasks.h"
#include "simd.h"

namespace ops_dcnv3 {
namespace {

constexpr int64_t kTilePoints = 256;
// Windows of 3x3, which all published models have, get code of their own, unrolled. For short vectors it is too long to pay.
constexpr int kUsualPoints = OPS_DCNV3_VECTOR_BYTES > 16 ? 9 : 0;
constexpr int64_t kCacheBytes = 4 << 20;  // what two cores find near them, roughly
constexpr int64_t kBandBytes = 512 << 10;  // second-level caches have so much for each core, up to four times as much

// How the loops over the channels find the four corners of a point. Interior: they all lie inside the image, at fixed
// distances from the first one. Near: an image is so small that the place of an element fits into Tile::Integer; else far.
enum class Corners { interior, near, far };

template <typename T>
inline bool is_near(const Dcnv3Params& p) {
  using Integer = typename Simd<accumulate_t<T>>::Integer;
  return p.height * p.width <= std::numeric_limits<Integer>::max() / (p.groups * p.group_channels);
}

// What is known of the points of one tile, pixel by pixel and in each of `groups` groups. There is room for a vector more
// than the points, as the last vector may reach beyond them.
template <typename T>
struct Tile {
  using A = accumulate_t<T>;
  using S = Simd<A>;
  using V = typename S::Vector;
  using Integer = typename S::Integer;
  using Integers = typename S::Integers;

  int64_t groups, pixel_points, pixels;  // groups, points of a pixel in them, the most pixels of a tile
  // Of the kernel window, and of the pixel from the tile's first one: the same for every tile.
  A *grid_x, *grid_y, *pixel_x;
  // Offsets (x, y) and mask as they were read; the modulation: the mask, or its softmax by way of its powers.
  T *offset, *mask;
  A *power, *modulation;
  // Located: position; top left pixel; modulation. For a point that reads nothing: 0; -1; 0, or NaN where its position is.
  A *x, *y;
  Integer* pixel;
  A* gain;
  // The corners, but for interior tiles: elements or, when far, pixels from the start of the image.
  Integer* corner;
  // Of the four corners of each point: gain * bilinear weight; in backward, grad_output . corner.
  A *weight, *dot;
  // Backward: gradients.
  A *grad_offset, *grad_modulation;

  // With memory == nullptr only counts; returns the bytes needed.
  int64_t lay_out(char* memory) {
    const int64_t room = std::max(kTilePoints, pixel_points) + S::kWidth;
    int64_t used = 0;
    auto take = [&](auto*& block, int64_t count) {
      block = memory ? reinterpret_cast<std::remove_reference_t<decltype(block)>>(memory + used) : nullptr;
      used += (count * int64_t(sizeof(*block)) + 63) / 64 * 64;
    };
    take(grid_x, room), take(grid_y, room), take(pixel_x, room);
    take(offset, 2 * room), take(mask, room), take(power, room), take(modulation, room);
    take(x, room), take(y, room), take(pixel, room), take(gain, room), take(corner, 4 * room);
    take(weight, 4 * room), take(dot, 4 * room), take(grad_offset, 2 * room), take(grad_modulation, room);
    return used;
  }

  Tile(const Dcnv3Params& p, int64_t groups, void* memory)
      : groups(groups),
        pixel_points(groups * p.points),
        pixels(std::min(p.out_width, std::max<int64_t>(1, kTilePoints / pixel_points))) {
    const int64_t bytes = lay_out(static_cast<char*>(memory));
    if (!memory) return;
    std::memset(memory, 0, bytes);
    for (int64_t point = 0; point < p.points; ++point) {
      int64_t column, row;
      kernel_grid(p, point, &column, &row);
      grid_x[point] = static_cast<A>(column);
      grid_y[point] = static_cast<A>(row);
    }
    for (int64_t k = p.points; k < pixels * pixel_points; ++k) {
      grid_x[k] = grid_x[k - p.points];
      grid_y[k] = grid_y[k - p.points];
      pixel_x[k] = k < pixel_points ? A(0) : pixel_x[k - pixel_points] + A(p.stride_w);
    }
  }

};

// One array of quadruples (a, b, c, d), (a, b, c, d), ... from four arrays.
template <typename V, typename Scalar>
inline void store_quadruples(V a, V b, V c, V d, Scalar* out) {
  const V low[2] = {zip_low(a, c), zip_low(b, d)}, high[2] = {zip_high(a, c), zip_high(b, d)};
  // One by one: of an array GCC makes a copy on the stack first.
  auto write = [out](int i, V part) { std::memcpy(out + i * lanes<V>, &part, sizeof(part)); };
  write(0, zip_low(low[0], low[1]));
  write(1, zip_high(low[0], low[1]));
  write(2, zip_low(high[0], high[1]));
  write(3, zip_high(high[0], high[1]));
}

template <typename T>
int64_t workspace_bytes(const Dcnv3Params& p) {
  return Tile<T>(p, p.groups, nullptr).lay_out(nullptr);
}

template <typename T>
inline void write_pixels(const accumulate_t<T>* from, int64_t stride, int64_t run, int64_t pixels, T* to) {
  for (int64_t pixel = 0; pixel < pixels; ++pixel, from += run, to += stride) {
    for (int64_t i = 0; i < run; ++i) from_accumulate(from[i], to + i);
  }
}

// The modulation from the logits: a softmax over each of `runs` runs of `length` elements. `powers` is room for as many. What
// a vector writes beyond its run, the next run overwrites.
template <typename T>
inline void softmax(const T* logit, int64_t runs, int64_t length, accumulate_t<T>* powers, accumulate_t<T>* modulation) {
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

// A tile: `pixels` pixels of an output row (n * out_height + y) from column x on. The tile after it has next_pixels pixels from
// pixel `next` on, or none.
struct Place {
  int64_t row, x, pixels, next, next_pixels;
};

// Calls body(place) for every tile of the output rows row_begin <= n * out_height + y < row_end. Band of columns after band
// of columns: what the rows within reach take there, `element_bytes` for each element of the input, is to stay in the
// second-level cache. The order of the pixels depends on the tensors alone, not on tiles or on a task's share of the groups.
template <typename Body>
inline void for_tiles(const Dcnv3Params& p, int64_t tile_pixels, int64_t element_bytes, int64_t row_begin, int64_t row_end,
                      Body body) {
  const int64_t row_bytes = p.width * p.groups * p.group_channels * element_bytes;
  const int64_t rows = std::min(p.height, 2 * usual_reach(p) + 1);
  const int64_t bands = std::min(p.out_width, 1 + rows * row_bytes / kBandBytes), width = (p.out_width + bands - 1) / bands;
  for (int64_t begin = 0; begin < p.out_width; begin += width) {
    const int64_t end = std::min(p.out_width, begin + width);
    for (int64_t row = row_begin; row < row_end; ++row) {
      for (int64_t x = begin; x < end; x += tile_pixels) {
        const int64_t pixels = std::min(tile_pixels, end - x), row_start = row * p.out_width;
        if (x + pixels < end) {
          body(Place{row, x, pixels, row_start + x + pixels, std::min(tile_pixels, end - x - pixels)});
        } else {
          const int64_t next_pixels = row + 1 < row_end ? std::min(tile_pixels, end - begin) : 0;
          body(Place{row, x, pixels, row_start + p.out_width + begin, next_pixels});
        }
      }
    }
  }
}

// Fetches `run` elements of each of `pixels` pixels, `stride` apart. Inlined at all costs: GCC takes a function that only
// fetches for one without an effect, and leaves out its calls.
template <typename T>
__attribute__((always_inline)) inline void prefetch(const T* from, int64_t stride, int64_t run, int64_t pixels) {
  constexpr int64_t line = 64 / sizeof(T);
  if (pixels <= 0) return;
  if (stride == run) run *= pixels, pixels = 1;
  for (int64_t pixel = 0; pixel < pixels; ++pixel) {
    for (int64_t i = 0; i < run + line - 1; i += line) __builtin_prefetch(from + pixel * stride + std::min(i, run - 1));
  }
}

// Whether `times` the size of input, offset and mask is so large that fetching ahead is worth its instructions.
template <typename T>
inline bool exceeds_cache(const Dcnv3Params& p, int64_t times) {
  const int64_t input = p.height * p.width * p.groups * p.group_channels;
  const int64_t all = p.batch * (input + p.out_height * p.out_width * 3 * p.groups * p.points);
  return times * all * int64_t(sizeof(T)) > kCacheBytes;
}

// Fetches, for a tile at (out_y, out_x), the pixels that no earlier row has read: those as far below as points usually
// reach. No hardware prefetcher foresees them. `image` stands at the first of `run` channels.
template <typename T>
__attribute__((always_inline)) inline void prefetch_below(const Dcnv3Params& p, const T* image, int64_t run, int64_t out_y,
                                                          int64_t out_x, int64_t pixels) {
  const int64_t y = window_center(out_y, p.kernel_h, p.stride_h, p.pad_h, p.dilation_h) + usual_reach(p);
  const int64_t begin = std::min(p.width, out_x * p.stride_w), end = std::min(p.width, (out_x + pixels) * p.stride_w);
  if (y < 0 || y >= p.height) return;
  const int64_t channels = p.groups * p.group_channels;
  prefetch(image + (y * p.width + begin) * channels, channels, run, end - begin);
}

// `run` numbers of each of `pixels` pixels as one dense array, with room for two vectors behind them: where they stand, if
// they are that already and `room` numbers follow, else in `copy`.
template <typename T>
inline const T* dense(const T* from, int64_t stride, int64_t run, int64_t pixels, int64_t room, T* copy) {
  if (stride == run && room >= run * pixels + 2 * Simd<T>::kWidth) return from;
  for (int64_t pixel = 0; pixel < pixels; ++pixel) {
    std::memcpy(copy + pixel * run, from + pixel * stride, run * sizeof(T));
  }
  return copy;
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

// Finds what the points of a tile at output pixel (out_y, out_x) read. An interior tile: false, the work left off, where a
// corner of a point lies outside the image.
template <Corners kCorners, bool kBackward, typename T>
inline bool locate(const Dcnv3Params& p, const Points<T>& points, int64_t out_y, int64_t out_x, Tile<T>& tile) {
  using A = accumulate_t<T>;
  using S = Simd<A>;
  using V = typename S::Vector;
  using I = typename S::Integers;
  using Integer = typename S::Integer;
  const V center_y = S::broadcast(A(window_center(out_y, p.kernel_h, p.stride_h, p.pad_h, p.dilation_h)));
  const V center_x = S::broadcast(A(window_center(out_x, p.kernel_w, p.stride_w, p.pad_w, p.dilation_w)));
  const V scale = S::broadcast(A(p.offset_scale)), height = S::broadcast(A(p.height)), width = S::broadcast(A(p.width));
  const I rows = I{} + Integer(p.height), columns = I{} + Integer(p.width);
  const V last_y = height - 1, last_x = width - 1, zero = S::zero();
  for (int64_t k = 0; k < points.count; k += S::kWidth) {
    auto write = [k](auto vector, auto* array) { std::memcpy(array + k, &vector, sizeof(vector)); };
    auto write_weights = [&](V gain, const auto& along_y, const auto& along_x) {
      const V gain_y[2] = {gain * along_y.weight[0], gain * along_y.weight[1]};
      V weight[4];
      bilinear_weights(gain_y, along_x.weight, weight);
      store_quadruples(weight[0], weight[1], weight[2], weight[3], tile.weight + 4 * k);
    };
    V offset[2];
    Simd<T>::load_pairs(points.offset + 2 * k, offset);
    const V y = sampling_position(center_y, S::load(tile.grid_y + k), offset[1], scale);
    const V x = sampling_position(center_x + S::load(tile.pixel_x + k), S::load(tile.grid_x + k), offset[0], scale);
    const V modulation = S::load(points.modulation + k);
    if (kCorners == Corners::interior) {
      if (!all((y >= zero) & (x >= zero) & (y < last_y) & (x < last_x))) return false;
      const auto along_y = linear_sample_inside<I>(y), along_x = linear_sample_inside<I>(x);
      write(along_y.first * columns + along_x.first, tile.pixel);
      write_weights(modulation, along_y, along_x);
      continue;
    }
    const I inside = touches_image(y, height) & touches_image(x, width);
    const V safe_y = inside ? y : zero, safe_x = inside ? x : zero;
    const V nothing = (x != x) | (y != y) ? S::broadcast(std::numeric_limits<A>::quiet_NaN()) : zero;
    const V gain = inside ? modulation : nothing;
    const auto along_y = linear_sample(safe_y, rows), along_x = linear_sample(safe_x, columns);
    const I pixel = along_y.first * columns + along_x.first;
    write(inside ? pixel : I{} - 1, tile.pixel);
    if (kBackward) write(safe_y, tile.y), write(safe_x, tile.x), write(gain, tile.gain);
    write_weights(gain, along_y, along_x);
    const Integer unit = kCorners == Corners::near ? p.groups * p.group_channels : 1;
    const I corner = (inside ? pixel : I{}) * unit, right = (inside ? along_x.step : I{}) * unit;
    const I below = (inside ? along_y.step : I{}) * columns * unit;
    store_quadruples(corner, corner + right, corner + below, corner + right + below, tile.corner + 4 * k);
  }
  return true;
}

// How far from the start of the image the corners of a point stand, in elements; all 0 for a point that reads nothing.
template <Corners kCorners, typename T>
inline void corners(const Tile<T>& tile, int64_t k, int64_t channels, int64_t row, int64_t at[4]) {
  if (kCorners == Corners::interior) {
    at[0] = tile.pixel[k] * channels;
    at[1] = at[0] + channels;
    at[2] = at[0] + row;
    at[3] = at[1] + row;
  } else {
    for (int i = 0; i < 4; ++i) at[i] = tile.corner[4 * k + i] * (kCorners == Corners::far ? channels : 1);
  }
}

// Calls function(channels of a group as a constant), 0 standing for any other number.
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

// One tile of the output; `image` and `output` stand at its first channel. kPoints: points of the window, 0 for any number.
template <int kChannels, int kPoints, Corners kCorners, typename T>
inline void sample(const Dcnv3Params& p, const Tile<T>& tile, int64_t pixels, const T* image, T* output) {
  using A = accumulate_t<T>;
  using S = Simd<T>;
  using V = typename S::Vector;
  const int64_t group_channels = kChannels ? kChannels : p.group_channels, channels = p.groups * group_channels;
  const int64_t points = kPoints ? kPoints : p.points, row = p.width * channels;
  // What a point that reads nothing reads: not the image, where there might be a NaN. Without a branch, as such points
  // come at random.
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
            for (int v = 0; v < count; ++v) S::store(sum_of<sums>(total[v]), output + c + v * S::kWidth);
          },
          [&](int64_t c) {
            A total = 0;
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

template <typename T>
void forward(const Dcnv3Params& p, const T* input, const T* offset, const T* mask, T* output, int64_t row_begin,
             int64_t row_end, void* memory) {
  Tile<T> tile(p, p.groups, memory);
  const int64_t channels = p.groups * p.group_channels;
  const bool near = is_near<T>(p), fetches = exceeds_cache<T>(p, 1);
  with_channels(p.group_channels, [&](auto group_channels) {
    constexpr int kChannels = decltype(group_channels)::value;
    for_tiles(p, tile.pixels, sizeof(T), row_begin, row_end, [&](const Place& place) {
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
      auto sample_tile = [&](auto corners) {
        auto* function =
            p.points == kUsualPoints ? sample<kChannels, kUsualPoints, corners(), T> : sample<kChannels, 0, corners(), T>;
        function(p, tile, pixels, image, output + pixel * channels);
      };
      if (locate<Corners::interior, false>(p, points, y, x, tile)) {
        sample_tile(std::integral_constant<Corners, Corners::interior>());
      } else if (near) {
        locate<Corners::near, false>(p, points, y, x, tile);
        sample_tile(std::integral_constant<Corners, Corners::near>());
      } else {
        locate<Corners::far, false>(p, points, y, x, tile);
        sample_tile(std::integral_constant<Corners, Corners::far>());
      }
    });
  });
}

// One tile: `image`, `grad_output` and `grad_input` stand at the first channel of its groups. Writes tile.dot and adds to
// grad_input, as far as they are wanted.
template <int kChannels, Corners kCorners, bool kWantInput, bool kWantPoints, typename T>
inline void backward_channels(const Dcnv3Params& p, const Tile<T>& tile, int64_t pixels, const T* image,
                              const T* grad_output, accumulate_t<T>* grad_input) {
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

// From tile.dot to the gradients by the offsets and by the modulation or the logits.
template <typename T>
inline void backward_points(const Dcnv3Params& p, Tile<T>& tile, int64_t pixels) {
  using A = accumulate_t<T>;
  using S = Simd<A>;
  using V = typename S::Vector;
  using I = typename S::Integers;
  const V scale = S::broadcast(A(p.offset_scale));
  const I rows = I{} + typename S::Integer(p.height), columns = I{} + typename S::Integer(p.width);
  const int64_t count = pixels * tile.pixel_points;
  for (int64_t k = 0; k < count; k += S::kWidth) {
    V four[4];  // (corner 0, 1, 2, 3) of a point, then of the next
    for (int i = 0; i < 4; ++i) four[i] = S::load(tile.dot + 4 * k + i * S::kWidth);
    const V left[2] = {even(four[0], four[1]), even(four[2], four[3])};
    const V right[2] = {odd(four[0], four[1]), odd(four[2], four[3])};
    const V corner[4] = {even(left[0], left[1]), even(right[0], right[1]), odd(left[0], left[1]), odd(right[0], right[1])};
    const auto along_y = linear_sample(S::load(tile.y + k), rows), along_x = linear_sample(S::load(tile.x + k), columns);
    const V gain = S::load(tile.gain + k), value = bilinear(along_y.weight, along_x.weight, corner);
    const V grad_y = bilinear(along_y.slope, along_x.weight, corner) * gain * scale;
    const V grad_x = bilinear(along_y.weight, along_x.slope, corner) * gain * scale;
    I pixel;
    std::memcpy(&pixel, tile.pixel + k, sizeof(pixel));
    S::store(pixel < 0 ? gain : value, tile.grad_modulation + k);
    S::store(zip_low(grad_x, grad_y), tile.grad_offset + 2 * k);
    S::store(zip_high(grad_x, grad_y), tile.grad_offset + 2 * k + S::kWidth);
  }
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
void backward(const Dcnv3Params& p, const T* input, const T* offset, const T* mask, const T* grad_output,
              const Dcnv3Gradients<T>& grad, int64_t group_begin, int64_t group_end, int64_t row_begin, int64_t row_end,
              void* memory) {
  Tile<T> tile(p, group_end - group_begin, memory);
  const int64_t channels = p.groups * p.group_channels, all_points = p.groups * p.points;
  const int64_t first_channel = group_begin * p.group_channels, first_point = group_begin * p.points;
  const int64_t own_channels = tile.groups * p.group_channels, own_points = tile.pixel_points;
  const bool want_points = grad.offset || grad.mask, fetches = exceeds_cache<T>(p, 3);  // with the gradients
  with_channels(p.group_channels, [&](auto group_channels) {
    constexpr int kChannels = decltype(group_channels)::value;
    auto run = [&](auto corners, auto want_input, auto want_points) {
      constexpr int64_t element_bytes = sizeof(T) + sizeof(accumulate_t<T>);  // with the gradient
      for_tiles(p, tile.pixels, element_bytes, row_begin, row_end, [&](const Place& place) {
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
        locate<corners(), true>(p, points, y, x, tile);
        backward_channels<kChannels, corners(), want_input(), want_points()>(
            p, tile, pixels, input + start, grad_output + pixel * channels + first_channel,
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
#define OPS_DCNV3_DEFINE_TASKS(T)                                                       \
  template <>                                                                           \
  const Dcnv3Tasks<T>& dcnv3_tasks<T>() {                                               \
    static constexpr Dcnv3Tasks<T> tasks{workspace_bytes<T>, forward<T>, backward<T>};  \
    return tasks;                                                                       \
  }
OPS_DCNV3_DEFINE_TASKS(float)
OPS_DCNV3_DEFINE_TASKS(double)
OPS_DCNV3_DEFINE_TASKS(BFloat16)
OPS_DCNV3_DEFINE_TASKS(Half)
#undef OPS_DCNV3_DEFINE_TASKS
}  // namespace OPS_DCNV3_ISA
}  // namespace ops_dcnv3
