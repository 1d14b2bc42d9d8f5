// Vectors of the width that the including file chose (OPS_DCNV3_VECTOR_BYTES), and conversions of the element types.
// Everything has internal linkage: one copy per instruction set.
#pragma once

#include <cstdint>
#include <cstring>

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

inline float to_accumulate(float value) { return value; }
inline double to_accumulate(double value) { return value; }
inline float to_accumulate(BFloat16 value) { return bit_cast<float>(uint32_t(value.bits) << 16); }
inline float to_accumulate(Half value) {
  const uint32_t sign = uint32_t(value.bits & 0x8000u) << 16, magnitude = value.bits & 0x7fffu;
  // A subnormal or normal half is (its bits, moved into a float) * 2^112; that product is exact. Inf and NaN are not.
  const float scaled = bit_cast<float>(magnitude << 13) * bit_cast<float>(0x77800000u);
  const uint32_t finite = bit_cast<uint32_t>(scaled), special = 0x7f800000u | (magnitude << 13);
  return bit_cast<float>(sign | (magnitude >= 0x7c00u ? special : finite));
}

inline void from_accumulate(float value, float* out) { *out = value; }
inline void from_accumulate(double value, double* out) { *out = value; }
// Round to nearest, ties to even.
inline void from_accumulate(float value, BFloat16* out) {
  const uint32_t bits = bit_cast<uint32_t>(value);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  out->bits = static_cast<uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : rounded);
}
inline void from_accumulate(float value, Half* out) {
  const uint32_t bits = bit_cast<uint32_t>(value), sign = (bits >> 16) & 0x8000u, magnitude = bits & 0x7fffffffu;
  uint32_t half;
  if (magnitude > 0x7f800000u) {
    half = 0x7e00u;
  } else if (magnitude >= 0x47800000u) {  // 65536 and beyond, infinity
    half = 0x7c00u;
  } else if (magnitude < 0x38800000u) {  // below 2^-14: subnormal, unit 2^-24; adding 0.5 makes the hardware round there
    half = bit_cast<uint32_t>(bit_cast<float>(magnitude) + 0.5f) - 0x3f000000u;
  } else {
    half = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  }
  out->bits = static_cast<uint16_t>(sign | half);
}

// Simd<T>: what is needed of a vector of accumulate_t<T>, loaded from T.
template <typename T>
struct Simd {
  using Scalar = accumulate_t<T>;
  static constexpr int kWidth = OPS_DCNV3_VECTOR_BYTES / sizeof(Scalar);
  typedef Scalar Vector __attribute__((vector_size(OPS_DCNV3_VECTOR_BYTES)));

  static Vector load(const T* from) {
    Vector to;
    if constexpr (sizeof(T) == sizeof(Scalar)) {
      std::memcpy(&to, from, sizeof(to));
    } else {
      typedef uint16_t Narrow __attribute__((vector_size(OPS_DCNV3_VECTOR_BYTES / 2)));
      Narrow narrow;
      std::memcpy(&narrow, from, sizeof(narrow));
      to = widen(__builtin_convertvector(narrow, Bits), T{});
    }
    return to;
  }

  static void store(Vector from, T* to) {
    if constexpr (sizeof(T) == sizeof(Scalar)) {
      std::memcpy(to, &from, sizeof(from));
    } else {
      for (int i = 0; i < kWidth; ++i) from_accumulate(from[i], to + i);
    }
  }

  static Vector zero() { return Vector{}; }
  static Vector broadcast(Scalar value) { return value - Vector{}; }

  static Scalar sum(Vector values) {
    // Halves the vector while that is one addition of registers.
    Scalar lanes[kWidth];
    std::memcpy(lanes, &values, sizeof(values));
    for (int half = kWidth / 2; half >= 1; half /= 2) {
      for (int i = 0; i < half; ++i) lanes[i] += lanes[i + half];
    }
    return lanes[0];
  }

 private:
  typedef uint32_t Bits __attribute__((vector_size(OPS_DCNV3_VECTOR_BYTES)));

  // The vector forms of to_accumulate.
  static Vector widen(Bits bits, BFloat16) { return bit_cast<Vector>(bits << 16); }
  static Vector widen(Bits bits, Half) {
    const Bits magnitude = bits & 0x7fffu;
    const Vector scaled = bit_cast<Vector>(magnitude << 13) * bit_cast<float>(0x77800000u);
    const Bits special = 0x7f800000u | (magnitude << 13);
    const Bits value = magnitude >= 0x7c00u ? special : bit_cast<Bits>(scaled);
    return bit_cast<Vector>(((bits & 0x8000u) << 16) | value);
  }
};

}  // namespace
}  // namespace ops_dcnv3
