#pragma once

#include <cmath>
#include <cstdint>

struct __half {
  uint16_t bits;
};

// 1 sign bit, 5 bits of exponent, 10 of fraction.
inline float __half2float(__half value) {
  const int exponent = value.bits >> 10 & 31, fraction = value.bits & 1023;
  float magnitude = exponent ? std::ldexp(float(1024 + fraction), exponent - 25) : std::ldexp(float(fraction), -24);
  if (exponent == 31) magnitude = fraction ? NAN : INFINITY;
  return value.bits >> 15 ? -magnitude : magnitude;
}

// To the nearest, ties to even, which is how nearbyint rounds.
inline __half __float2half(float value) {
  const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  if (value != value) return {0x7fff};
  const float magnitude = std::fabs(value);
  if (magnitude >= 65520) return {uint16_t(sign | 0x7c00)};
  if (magnitude < std::ldexp(1.f, -14)) return {uint16_t(sign | int(std::nearbyint(std::ldexp(magnitude, 24))))};
  const int exponent = std::ilogb(magnitude);
  // A fraction that rounds up to 2048 carries into the exponent, as it should.
  const int fraction = int(std::nearbyint(std::ldexp(magnitude, 10 - exponent)));
  return {uint16_t(sign | (((exponent + 14) << 10) + fraction))};
}
