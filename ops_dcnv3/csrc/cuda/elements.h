// Element types of the CUDA kernels: conversion, access in vectors, and the choice of both for a launch. Included by
// .cu files.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <initializer_list>
#include <type_traits>

#include "launch.h"

namespace ops_dcnv3::cuda {
namespace {

// Sums, positions and weights are kept in float, for double in double.
template <typename T>
using accumulate_t = std::conditional_t<std::is_same<T, double>::value, double, float>;

__device__ inline float widen(float value) { return value; }
__device__ inline double widen(double value) { return value; }
__device__ inline float widen(__half value) { return __half2float(value); }
__device__ inline float widen(__nv_bfloat16 value) { return __bfloat162float(value); }

__device__ inline void narrow(float value, float* to) { *to = value; }
__device__ inline void narrow(double value, double* to) { *to = value; }
__device__ inline void narrow(float value, __half* to) { *to = __float2half(value); }
__device__ inline void narrow(float value, __nv_bfloat16* to) { *to = __float2bfloat16(value); }

// kVec elements that move in one instruction.
template <typename T, int kVec>
struct alignas(kVec * sizeof(T)) Vector {
  T element[kVec];
};

template <int kVec, typename T>
__device__ inline void load(const T* from, accumulate_t<T> (&to)[kVec]) {
  const Vector<T, kVec> vector = *reinterpret_cast<const Vector<T, kVec>*>(from);
#pragma unroll
  for (int i = 0; i < kVec; ++i) to[i] = widen(vector.element[i]);
}

template <int kVec, typename T>
__device__ inline void store(const accumulate_t<T> (&from)[kVec], T* to) {
  Vector<T, kVec> vector;
#pragma unroll
  for (int i = 0; i < kVec; ++i) narrow(from[i], &vector.element[i]);
  *reinterpret_cast<Vector<T, kVec>*>(to) = vector;
}

template <int kVec, typename A>
__device__ inline void atomic_add(const A (&from)[kVec], A* to) {
#if __CUDA_ARCH__ >= 900
  if constexpr (std::is_same<A, float>::value && kVec % 4 == 0) {
#pragma unroll
    for (int i = 0; i < kVec; i += 4) {
      atomicAdd(reinterpret_cast<float4*>(to + i), make_float4(from[i], from[i + 1], from[i + 2], from[i + 3]));
    }
  } else
#endif
  {
#pragma unroll
    for (int i = 0; i < kVec; ++i) atomicAdd(to + i, from[i]);
  }
}

template <typename T, int kVec>
struct Elements {
  using type = T;
  static constexpr int vector = kVec;
};

// Calls launch(Elements<...>()): vectors of 16 bytes where all of `pointers` and `channels` are multiples.
template <typename T, typename Launch>
cudaError_t with_vector(int64_t channels, std::initializer_list<const void*> pointers, Launch launch) {
  constexpr int kVec = 16 / sizeof(T);
  bool fits = channels % kVec == 0;
  for (const void* pointer : pointers) fits = fits && reinterpret_cast<uintptr_t>(pointer) % 16 == 0;
  return fits ? launch(Elements<T, kVec>()) : launch(Elements<T, 1>());
}

template <typename Launch>
cudaError_t with_type(ElementType type, int64_t channels, std::initializer_list<const void*> pointers, Launch launch) {
  switch (type) {
    case ElementType::float32:
      return with_vector<float>(channels, pointers, launch);
    case ElementType::float64:
      return with_vector<double>(channels, pointers, launch);
    case ElementType::float16:
      return with_vector<__half>(channels, pointers, launch);
    case ElementType::bfloat16:
      return with_vector<__nv_bfloat16>(channels, pointers, launch);
  }
  return cudaErrorInvalidValue;
}

}  // namespace
}  // namespace ops_dcnv3::cuda
