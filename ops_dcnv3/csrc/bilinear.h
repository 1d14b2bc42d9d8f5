// Bilinear sampling, defined here alone: used by every operator, on the CPU and in CUDA kernels.
//
// Pixel model: the centre of pixel (row r, column c) is the point (y, x) = (r, c). A corner outside the image reads 0,
// and a point that is a whole pixel or more outside touches no corner at all.
//
// Bilinear interpolation is linear interpolation along y by linear interpolation along x, so one function for one axis
// is all there is to it. The code uses the operators that numbers and GCC's vector types share: the CPU kernels call it
// for many points at once, CUDA threads for one.
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define OPS_DCNV3_INLINE static __host__ __device__ __forceinline__
#else
#include <type_traits>
// Internal linkage: the same header is compiled once per instruction set, and the linker must not merge those copies.
#define OPS_DCNV3_INLINE static inline
#endif

namespace ops_dcnv3 {

// Between numbers, or between vectors of as many elements. A floating-point number is rounded towards zero.
template <typename To, typename From>
OPS_DCNV3_INLINE To convert(From value) {
#ifndef __CUDACC__
  if constexpr (!std::is_arithmetic<From>::value) {
    return __builtin_convertvector(value, To);
  } else
#endif
  {
    return static_cast<To>(value);
  }
}

// Whether any pixel is read at this position of an axis of `size` pixels. False for NaN, so that converting the
// position to an integer is safe after it. (`&` and not `&&`: it holds for vectors too.)
template <typename T>
OPS_DCNV3_INLINE auto touches_image(T position, T size) {
  return (position > T{} - 1) & (position < size);
}

// Linear interpolation along one axis, between the pixels `first` and `first + step`, both of them inside the image. A
// neighbour outside reads 0: its weight is 0, and with step 0 the pixel inside is read in its place.
template <typename T, typename I>
struct LinearSample {
  I first, step;  // step is 0 or 1
  T weight[2];
  T slope[2];  // derivatives of the weights by the position
};

// For a position 0 <= position < size - 1, where nothing lies outside.
template <typename I, typename T>
OPS_DCNV3_INLINE LinearSample<T, I> linear_sample_inside(T position) {
  const T one = T{} + 1;
  const I first = convert<I>(position);
  const T fraction = position - convert<T>(first);
  return {first, I{} + 1, {one - fraction, fraction}, {-one, one}};
}

// For a position that touches the image.
template <typename T, typename I>
OPS_DCNV3_INLINE LinearSample<T, I> linear_sample(T position, I size) {
  const T zero = T{}, one = zero + 1;
  const I start = I{}, unit = start + 1, last = size - unit;
  I floor = convert<I>(position);
  floor = position < convert<T>(floor) ? floor - unit : floor;
  const T fraction = position - convert<T>(floor);
  const auto has_first = floor >= start, has_second = floor < last;
  return {has_first ? floor : start,
          has_first & has_second ? unit : start,
          {has_first ? one - fraction : zero, has_second ? fraction : zero},
          {has_first ? -one : zero, has_second ? one : zero}};
}

// The same for operators that read the border pixel up to a whole pixel outside of it, as RoIAlign does: there the
// value does not depend on the position. Beyond that, and for NaN, nothing is read.
template <typename T>
OPS_DCNV3_INLINE auto touches_border(T position, T size) {
  return (position >= T{} - 1) & (position <= size);
}

// For a position that touches the border.
template <typename T, typename I>
OPS_DCNV3_INLINE LinearSample<T, I> linear_sample_border(T position, I size) {
  const T zero = T{}, last = convert<T>(size) - 1;
  const auto moves = (position >= zero) & (position < last);
  const T not_before = position > zero ? position : zero;
  LinearSample<T, I> sample = linear_sample(not_before < last ? not_before : last, size);
  for (T& slope : sample.slope) slope = moves ? slope : zero;
  return sample;
}

// The four corners are (y, x), (y, x + 1), (y + 1, x), (y + 1, x + 1), everywhere in this order. With the weights of
// both axes this is the interpolated value; with the slopes of one of them in their place, its derivative along that
// axis.
template <typename T>
OPS_DCNV3_INLINE T bilinear(const T y[2], const T x[2], const T corner[4]) {
  return y[0] * (x[0] * corner[0] + x[1] * corner[1]) + y[1] * (x[0] * corner[2] + x[1] * corner[3]);
}

// What the corners contribute to the value.
template <typename T>
OPS_DCNV3_INLINE void bilinear_weights(const T y[2], const T x[2], T weight[4]) {
  weight[0] = y[0] * x[0];
  weight[1] = y[0] * x[1];
  weight[2] = y[1] * x[0];
  weight[3] = y[1] * x[1];
}

}  // namespace ops_dcnv3
