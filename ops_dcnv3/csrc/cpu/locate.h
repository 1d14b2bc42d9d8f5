// Where the points of an operator read, for one instruction set: tiles of output pixels in bands of columns, and, for
// each point, its pixels and bilinear weights. Knows no torch; included as dcnv3_kernel.h says.
//
// The work goes tile by tile, a tile being a run of output pixels in one row, small enough for the first-level cache.
// First the points: `locate` finds, a vector of points at a time, which pixels each one reads and with which weights.
// Then the channels (gather.h): a point is four rows of channels and four weights.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>

#include "element_types.h"
#include "sampling.h"
#include "simd.h"

namespace ops_dcnv3 {
namespace {

constexpr int64_t kTilePoints = 256;
constexpr int64_t kCacheBytes = 4 << 20;   // what two cores find near them, roughly
constexpr int64_t kBandBytes = 512 << 10;  // second-level caches have so much for each core, up to four times as much

// How the loops over the channels find the four corners of a point. Interior: they all lie inside the image, at fixed
// distances from the first one. Near: an image is so small that the place of an element fits into Tile::Integer; else
// far.
enum class Corners { interior, near, far };

template <typename T>
inline bool is_near(const SamplingParams& p) {
  using Integer = typename Simd<accumulate_t<T>>::Integer;
  return p.height * p.width <= std::numeric_limits<Integer>::max() / (p.groups * p.group_channels);
}

// What is known of the points of one tile, pixel by pixel and in each of `groups` groups. There is room for a vector
// more than the points, as the last vector may reach beyond them.
template <typename T>
struct Tile {
  using A = accumulate_t<T>;
  using S = Simd<A>;
  using V = typename S::Vector;
  using Integer = typename S::Integer;
  using Integers = typename S::Integers;

  int64_t groups, pixel_points, pixels;  // groups, points of a pixel in them, the most pixels of a tile
  // Of the regular grid, where the operator has one, and of the pixel from the tile's first one: the same for every
  // tile.
  A *grid_x, *grid_y, *pixel_x;
  // Offsets (x, y) and mask as they were read; the modulation: the mask, or its softmax by way of its powers.
  T *offset, *mask;
  A *power, *modulation;
  // Located: position; top left pixel; modulation. For a point outside the image: 0; -1; 0, or NaN where its position
  // is.
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

  Tile(const SamplingParams& p, int64_t groups, void* memory)
      : groups(groups),
        pixel_points(groups * p.points),
        pixels(std::min(p.out_width, std::max<int64_t>(1, kTilePoints / pixel_points))) {
    const int64_t bytes = lay_out(static_cast<char*>(memory));
    if (memory) std::memset(memory, 0, bytes);
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

// A tile: `pixels` pixels of an output row (n * out_height + y) from column x on. The tile after it has next_pixels
// pixels from pixel `next` on, or none.
struct Place {
  int64_t row, x, pixels, next, next_pixels;
};

// Calls body(place) for every tile of the output rows row_begin <= n * out_height + y < row_end. Band of columns after
// band of columns: what the rows up to `reach` above and below take there, `element_bytes` for each element of the
// input, is to stay in the second-level cache. The order of the pixels depends on the tensors alone, not on tiles or on
// a task's share of the groups.
template <typename Body>
inline void for_tiles(const SamplingParams& p, int64_t reach, int64_t tile_pixels, int64_t element_bytes,
                      int64_t row_begin, int64_t row_end, Body body) {
  const int64_t row_bytes = p.width * p.groups * p.group_channels * element_bytes;
  const int64_t rows = std::min(p.height, 2 * reach + 1);
  const int64_t bands = std::min(p.out_width, 1 + rows * row_bytes / kBandBytes),
                width = (p.out_width + bands - 1) / bands;
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

// Fetches `run` elements of each of `pixels` pixels, `stride` apart. Inlined at all costs: GCC takes a function that
// only fetches for one without an effect, and leaves out its calls.
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
inline bool exceeds_cache(const SamplingParams& p, int64_t times) {
  const int64_t input = p.height * p.width * p.groups * p.group_channels;
  const int64_t all = p.batch * (input + p.out_height * p.out_width * 3 * p.groups * p.points);
  return times * all * int64_t(sizeof(T)) > kCacheBytes;
}

// `run` numbers of each of `pixels` pixels as one dense array, with room for two vectors behind them: in place, if they
// are that already and `room` numbers follow, else in `copy`.
template <typename T>
inline const T* dense(const T* from, int64_t stride, int64_t run, int64_t pixels, int64_t room, T* copy) {
  if (stride == run && room >= run * pixels + 2 * Simd<T>::kWidth) return from;
  for (int64_t pixel = 0; pixel < pixels; ++pixel) {
    std::memcpy(copy + pixel * run, from + pixel * stride, run * sizeof(T));
  }
  return copy;
}

// Finds what the points of a tile read. position(k, &y, &x, &modulation) gives the vectors of positions, in input
// pixels, and of modulations of the points from k on. An interior tile: false, the work left off, where a corner of a
// point lies outside the image.
template <Corners kCorners, bool kBackward, typename T, typename Position>
inline bool locate(const SamplingParams& p, int64_t count, Tile<T>& tile, Position position) {
  using A = accumulate_t<T>;
  using S = Simd<A>;
  using V = typename S::Vector;
  using I = typename S::Integers;
  using Integer = typename S::Integer;
  const V height = S::broadcast(A(p.height)), width = S::broadcast(A(p.width));
  const I rows = I{} + Integer(p.height), columns = I{} + Integer(p.width);
  const V last_y = height - 1, last_x = width - 1, zero = S::zero();
  for (int64_t k = 0; k < count; k += S::kWidth) {
    auto write = [k](auto vector, auto* array) { std::memcpy(array + k, &vector, sizeof(vector)); };
    auto write_weights = [&](V gain, const auto& along_y, const auto& along_x) {
      const V gain_y[2] = {gain * along_y.weight[0], gain * along_y.weight[1]};
      V weight[4];
      bilinear_weights(gain_y, along_x.weight, weight);
      store_quadruples(weight[0], weight[1], weight[2], weight[3], tile.weight + 4 * k);
    };
    V y, x, modulation;
    position(k, &y, &x, &modulation);
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

// How far the corners of a point are from the start of the image, in elements; all 0 for a point outside the image.
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
}  // namespace
}  // namespace ops_dcnv3
