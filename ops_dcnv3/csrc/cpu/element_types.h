// Element types of the CPU kernels, without torch: float, double and the two 16-bit types.
#pragma once

#include <cstdint>

namespace ops_dcnv3 {

// Storage of the 16-bit types; arithmetic is in float.
struct BFloat16 {
  uint16_t bits;
};
struct Half {
  uint16_t bits;
};

template <typename T>
struct Accumulate {
  using type = float;
};
template <>
struct Accumulate<double> {
  using type = double;
};
template <typename T>
using accumulate_t = typename Accumulate<T>::type;

}  // namespace ops_dcnv3
