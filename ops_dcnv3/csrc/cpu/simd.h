// Vectors of the width that the including file chose (OPS_DCNV3_VECTOR_BYTES), and conversions of the element types.
// Everything has internal linkage: one copy per instruction set.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>
#include <utility>

#if OPS_DCNV3_VECTOR_BYTES > 16
#include <immintrin.h>
#endif

#include "element_types.h"

namespace ops_dcnv3 {

namespace {

template <typename To, typename From>
inline To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From), "bit_cast keeps the size");
  To to;
  std::memcpy(&to, &from, sizeof(to));
  return to;
}

// Conversions between an element type and the type of its sums, for one number (float, uint32_t) or for a vector of
// them. A half is (its bits, moved into a float) * 2^112, exactly; infinities and NaN are not.
template <typename F, typename U>
inline F widen(U bits, BFloat16) {
  return bit_cast<F>(bits << 16);
}
template <typename F, typename U>
inline F widen(U bits, Half) {
  const U magnitude = bits & 0x7fffu, special = 0x7f800000u | (magnitude << 13);
  const F scaled = bit_cast<F>(magnitude << 13) * bit_cast<float>(0x77800000u);
  return bit_cast<F>(((bits & 0x8000u) << 16) | (magnitude >= 0x7c00u ? special : bit_cast<U>(scaled)));
}
// Round to nearest, ties to even; a bfloat16 is the upper half of the result.
template <typename F, typename U>
inline U round_to_bfloat16(F value) {
  const U bits = bit_cast<U>(value), nan = U{} + 0x7fc00000u;
  return value == value ? bits + 0x7fffu + ((bits >> 16) & 1u) : nan;
}
template <typename F, typename U>
inline U narrow(F value, BFloat16) {
  return round_to_bfloat16<F, U>(value) >> 16;
}
template <typename F, typename U>
inline U narrow(F value, Half) {
  const U bits = bit_cast<U>(value), magnitude = bits & 0x7fffffffu, nan = U{} + 0x7e00u, infinity = U{} + 0x7c00u;
  const U normal = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  // Below 2^-14, in units of 2^-24: adding 0.5 makes the hardware round there.
  const U subnormal = bit_cast<U>(bit_cast<F>(magnitude) + 0.5f) - 0x3f000000u;
  const U finite = magnitude < 0x38800000u ? subnormal : normal;
  const U half = magnitude > 0x7f800000u ? nan : magnitude >= 0x47800000u ? infinity : finite;
  return ((bits >> 16) & 0x8000u) | half;
}

inline float to_accumulate(float value) { return value; }
inline double to_accumulate(double value) { return value; }
template <typename T>
inline float to_accumulate(T value) {
  return widen<float>(uint32_t(value.bits), T{});
}
inline void from_accumulate(float value, float* out) { *out = value; }
inline void from_accumulate(double value, double* out) { *out = value; }
template <typename T>
inline void from_accumulate(float value, T* out) {
  out->bits = static_cast<uint16_t>(narrow<float, uint32_t>(value, T{}));
}

// Simd<T>: vectors of accumulate_t<T>, loaded from T and stored to T.
template <typename T>
struct Simd {
  using Scalar = accumulate_t<T>;
  using Integer = std::conditional_t<sizeof(Scalar) == 4, int32_t, int64_t>;
  static constexpr int kWidth = OPS_DCNV3_VECTOR_BYTES / sizeof(Scalar);
  typedef Scalar Vector __attribute__((vector_size(OPS_DCNV3_VECTOR_BYTES)));
  typedef Integer Integers __attribute__((vector_size(OPS_DCNV3_VECTOR_BYTES)));

  static Vector load(const T* from) {
    Vector to;
    if constexpr (sizeof(T) == sizeof(Scalar)) {
      std::memcpy(&to, from, sizeof(to));
#if OPS_DCNV3_VECTOR_BYTES == 64
    } else if constexpr (std::is_same<T, BFloat16>::value) {
      // Each number to the upper half of its element, zeros to the lower one: one instruction in place of two.
      const __m512i numbers = _mm512_castsi256_si512(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
      const Bits twice = Bits{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15} * 0x10001u;
      to = (Vector)_mm512_maskz_permutexvar_epi16(0xaaaaaaaa, (__m512i)twice, numbers);
#endif
    } else {
      to = widen<Vector>(load_bits(from), T{});
    }
    return to;
  }

  // Pairs (x, y), (x, y), ...: the x, and the y.
  static void load_pairs(const T* from, Vector pairs[2]);

  static void store(Vector from, T* to) {
    if constexpr (sizeof(T) == sizeof(Scalar)) {
      std::memcpy(to, &from, sizeof(from));
#if OPS_DCNV3_VECTOR_BYTES == 64
    } else if constexpr (std::is_same<T, BFloat16>::value) {
      // The upper halves of the rounded elements, without a shift.
      const Bits odd = Bits{1, 5, 9, 13, 17, 21, 25, 29} + (Bits{3, 7, 11, 15, 19, 23, 27, 31} << 16);
      const __m512i rounded = (__m512i)round_to_bfloat16<Vector, Bits>(from);
      const __m512i numbers = _mm512_maskz_permutexvar_epi16(~0u, (__m512i)odd, rounded);
      std::memcpy(to, &numbers, sizeof(numbers) / 2);
#endif
    } else {
      const Narrow bits = __builtin_convertvector(narrow<Vector, Bits>(from, T{}), Narrow);
      std::memcpy(to, &bits, sizeof(bits));
    }
  }

  static Vector zero() { return Vector{}; }
  static Vector broadcast(Scalar value) { return value - Vector{}; }

 private:
  typedef uint32_t Bits __attribute__((vector_size(OPS_DCNV3_VECTOR_BYTES)));
  typedef uint16_t Narrow __attribute__((vector_size(OPS_DCNV3_VECTOR_BYTES / 2)));

  static Bits load_bits(const T* from) {
#if OPS_DCNV3_VECTOR_BYTES == 64
    return (Bits)_mm512_maskz_cvtepu16_epi32(0xffff, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
#elif OPS_DCNV3_VECTOR_BYTES == 32
    return (Bits)_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
#else
    Narrow bits;
    std::memcpy(&bits, from, sizeof(bits));
    return __builtin_convertvector(bits, Bits);
#endif
  }
};

// The elements of a and then of b, at the places that index(0), index(1), ... name.
#if defined(__clang__)
template <typename V, typename Index, int... i>
inline V shuffle(V a, V b, Index index, std::integer_sequence<int, i...>) {
  return __builtin_shufflevector(a, b, index(i)...);
}
#else
template <typename V, typename Index, int... i>
inline V shuffle(V a, V b, Index index, std::integer_sequence<int, i...>) {
  using Integer = std::conditional_t<sizeof(a[0]) == 4, int32_t, int64_t>;
  typedef Integer Integers __attribute__((vector_size(sizeof(V))));
  return __builtin_shuffle(a, b, Integers{index(i)...});
}
#endif
template <typename V>
constexpr int lanes = sizeof(V) / sizeof(std::declval<V>()[0]);
template <typename V, typename Index>
inline V shuffle(V a, V b, Index index) {
  return shuffle(a, b, index, std::make_integer_sequence<int, lanes<V>>());
}

// Whether every element is true, that is, not 0 but -1.
template <typename V>
inline bool all(V truth) {
#if OPS_DCNV3_VECTOR_BYTES == 64
  return _mm512_test_epi64_mask((__m512i)~truth, (__m512i)~truth) == 0;
#elif OPS_DCNV3_VECTOR_BYTES == 32
  return _mm256_testc_si256((__m256i)truth, _mm256_set1_epi32(-1));
#else
  bool every = true;
  for (int i = 0; i < lanes<V>; ++i) every &= truth[i] != 0;
  return every;
#endif
}

// Four vectors, each filled with one of four adjacent numbers: one load for all, as loads are what the loops wait for.
template <typename V>
inline void spread(const float* from, V to[4]) {
#if OPS_DCNV3_VECTOR_BYTES == 64
  V all = (V)_mm512_maskz_broadcast_f32x4(0xffff, _mm_loadu_ps(from));
  asm("" : "+v"(all));
#elif OPS_DCNV3_VECTOR_BYTES == 32
  V all = (V)_mm256_broadcast_ps(reinterpret_cast<const __m128*>(from));
  asm("" : "+x"(all));
#else
  V all;
  std::memcpy(&all, from, sizeof(all));
#endif
  to[0] = shuffle(all, all, [](int i) constexpr { return i / 4 * 4; });
  to[1] = shuffle(all, all, [](int i) constexpr { return i / 4 * 4 + 1; });
  to[2] = shuffle(all, all, [](int i) constexpr { return i / 4 * 4 + 2; });
  to[3] = shuffle(all, all, [](int i) constexpr { return i / 4 * 4 + 3; });
}
template <typename V>
inline void spread(const double* from, V to[4]) {
  for (int i = 0; i < 4; ++i) to[i] = from[i] - V{};
}

// The same, to be multiplied with vectors loaded from T. With AVX-512 what is made of bfloat16 is in a register, so the
// multiplication can load the weight, and the shuffles are left to the numbers.
template <typename T, typename V>
inline void spread_for(const accumulate_t<T>* from, V to[4]) {
  if constexpr (std::is_same<T, BFloat16>::value && sizeof(V) == 64) {
    for (int i = 0; i < 4; ++i) to[i] = from[i] - V{};
  } else {
    spread(from, to);
  }
}

// Of pairs (x, y), (x, y), ... the x, and the y.
template <typename V>
inline V even(V a, V b) {
  return shuffle(a, b, [](int i) constexpr { return 2 * i; });
}
template <typename V>
inline V odd(V a, V b) {
  return shuffle(a, b, [](int i) constexpr { return 2 * i + 1; });
}

template <typename T>
inline void Simd<T>::load_pairs(const T* from, Vector pairs[2]) {
  if constexpr (std::is_same<T, BFloat16>::value) {  // one load: they are the halves of its elements
    Bits bits;
    std::memcpy(&bits, from, sizeof(bits));
    pairs[0] = bit_cast<Vector>(bits << 16);
    pairs[1] = bit_cast<Vector>(bits & 0xffff0000u);
  } else {
    const Vector first = load(from), second = load(from + kWidth);
    pairs[0] = even(first, second);
    pairs[1] = odd(first, second);
  }
}

// The way back: the elements of a and b in turn, the first half and the second half of them.
template <typename V>
inline V zip_low(V a, V b) {
  return shuffle(a, b, [](int i) constexpr { return i / 2 + i % 2 * lanes<V>; });
}
template <typename V>
inline V zip_high(V a, V b) {
  return shuffle(a, b, [](int i) constexpr { return (i + lanes<V>) / 2 + i % 2 * lanes<V>; });
}

// a and b are runs of `length` elements; adds the halves of each run, which makes runs of half the length, those of a
// before those of b.
template <int length, typename V>
inline V fold(V a, V b) {
  auto place = [](int i) constexpr { return i / (length / 2) * length + i % (length / 2); };
  return shuffle(a, b, place) + shuffle(a, b, [place](int i) constexpr { return place(i) + length / 2; });
}
template <int length, typename V>
inline V fold_all(V a) {
  if constexpr (length > 1) {
    return fold_all<length / 2>(fold<length>(a, a));
  } else {
    return a;
  }
}

// The sums of the elements of four vectors, added to out[0] to out[3].
template <typename V, typename Scalar>
inline void add_sums(V a, V b, V c, V d, Scalar* out) {
  constexpr int width = lanes<V>;
  if constexpr (width < 4) {
    const V sums[2] = {fold<width>(a, b), fold<width>(c, d)};
    for (int i = 0; i < 4; ++i) out[i] += sums[i / 2][i % 2];
  } else {
    const V sums = fold_all<width / 4>(fold<width / 2>(fold<width>(a, b), fold<width>(c, d)));
    for (int i = 0; i < 4; ++i) out[i] += sums[i];
  }
}

template <int count, typename V>
inline V sum_of(const V* values) {
  if constexpr (count == 1) {
    return values[0];
  } else {
    return sum_of<count / 2>(values) + sum_of<count / 2>(values + count / 2);
  }
}

// combine() over all elements.
template <typename V, typename Combine, int half = lanes<V> / 2>
inline auto reduce(V values, Combine combine) {
  if constexpr (half == 0) {
    return values[0];
  } else {
    const V moved = shuffle(values, values, [](int i) constexpr { return (i + half) % lanes<V>; });
    return reduce<V, Combine, half / 2>(combine(values, moved), combine);
  }
}

// Calls body(channel, number of vectors as a constant) over the channels, then tail(channel) one by one.
template <typename S, typename Body, typename Tail>
inline void for_channels(int64_t channels, Body body, Tail tail) {
  int64_t c = 0;
  for (; c + 4 * S::kWidth <= channels; c += 4 * S::kWidth) body(c, std::integral_constant<int, 4>());
  if (c + 2 * S::kWidth <= channels) body(c, std::integral_constant<int, 2>()), c += 2 * S::kWidth;
  if (c + S::kWidth <= channels) body(c, std::integral_constant<int, 1>()), c += S::kWidth;
  for (; c < channels; ++c) tail(c);
}

// The exponential function, to 2 units in the last place; 0 where it would be subnormal, infinity from 88 on.
template <typename V>
inline V exponential(V x) {
  if constexpr (sizeof(x[0]) == 8) {
    for (int i = 0; i < lanes<V>; ++i) x[i] = std::exp(x[i]);
    return x;
  } else {
    typedef int32_t Integers __attribute__((vector_size(sizeof(V))));
    const Integers in_range = (x > -87.0f) & (x < 88.0f);  // false for NaN
    const V y = in_range ? x : V{};
    // x = n * log(2) + rest, |rest| <= log(2) / 2. Adding 1.5 * 2^23 leaves n in the low bits of the sum.
    const float round = 12582912.0f;
    const V shifted = y * 1.44269504f + round, n = shifted - round;
    const V rest = y - n * 0.693145752f - n * 1.42860677e-6f;  // log(2) in two parts, the first with few bits
    V series = V{} + 1.0f / 5040;
    for (const float coefficient : {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 1.0f / 2, 1.0f, 1.0f}) {
      series = series * rest + coefficient;
    }
    const Integers exponent = (bit_cast<Integers>(shifted) - bit_cast<int32_t>(round)) << 23;
    const V result = bit_cast<V>(bit_cast<Integers>(series) + exponent);
    const V infinity = V{} + std::numeric_limits<float>::infinity(), outside = x < 0 ? V{} : x + infinity;
    return in_range ? result : outside;
  }
}

// The exact form of GELU, x * (1 + erf(x / sqrt(2))) / 2. float: to 2e-7 of |x|, by the rational function for erf of
// Eigen.
template <typename V>
inline V gelu(V x) {
  if constexpr (sizeof(x[0]) == 8) {
    for (int i = 0; i < lanes<V>; ++i) x[i] *= 0.5 * std::erfc(-x[i] * 0.70710678118654752);
    return x;
  } else {
    const V scaled = x * 0.70710678f, below = scaled > 4.0f ? V{} + 4.0f : scaled,
            z = below < -4.0f ? V{} - 4.0f : below;
    const V square = z * z;
    V numerator = V{} - 2.72614225801306e-10f, denominator = V{} - 1.45660718464996e-05f;
    for (const float coefficient : {2.77068142495902e-08f, -2.10102402082508e-06f, -5.69250639462346e-05f,
                                    -7.34990630326855e-04f, -2.95459980854025e-03f, -1.60960333262415e-02f}) {
      numerator = numerator * square + coefficient;
    }
    for (const float coefficient :
         {-2.13374055278905e-04f, -1.68282697438203e-03f, -7.37332916720468e-03f, -1.42647390514189e-02f}) {
      denominator = denominator * square + coefficient;
    }
    const V half = x * 0.5f;
    return half + half * z * numerator / denominator;
  }
}

}  // namespace
}  // namespace ops_dcnv3
