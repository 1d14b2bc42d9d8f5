// The part of CUDA that the kernels use, for a C++ compiler. Blocks run one after another, their threads as fibers that
// give way to each other at barriers and shuffles. Found in place of CUDA's own header of this name.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>

#define __global__
#define __device__
#define __host__
#define __shared__
#define __launch_bounds__(...)

// A warp size and limits that every GPU has.
constexpr int kWarpSize = 32;
constexpr unsigned kMostThreads = 1024, kMostBlocks = 2147483647;
constexpr size_t kMostSharedBytes = 48 * 1024;

enum cudaError_t { cudaSuccess, cudaErrorInvalidValue, cudaErrorInvalidConfiguration };
using cudaStream_t = void*;

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct alignas(16) float4 {
  float x, y, z, w;
};
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

extern dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulation {

// Runs `thread` for every thread of every block.
cudaError_t launch(dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()>& thread);

void wait_for_block();
// Waits for the lanes of `mask`, and returns the bits that `lane` of this warp brought along.
uint64_t wait_for_warp(unsigned mask, uint64_t bits, int lane);
int lane();

}  // namespace emulation

inline void __syncthreads() { emulation::wait_for_block(); }
inline void __syncwarp(unsigned mask = 0xffffffff) { emulation::wait_for_warp(mask, 0, emulation::lane()); }

template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask) {
  static_assert(sizeof(T) <= sizeof(uint64_t));
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = emulation::wait_for_warp(mask, bits, emulation::lane() ^ lane_mask);
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

template <typename T>
T atomicAdd(T* address, T value) {
  const T before = *address;
  *address += value;
  return before;
}
inline float4 atomicAdd(float4* address, float4 value) {
  const float4 before = *address;
  *address = {before.x + value.x, before.y + value.y, before.z + value.z, before.w + value.w};
  return before;
}

struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
};
template <typename... Parameters, typename... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments... arguments) {
  return emulation::launch(config->gridDim, config->blockDim, config->dynamicSmemBytes, [=] { kernel(arguments...); });
}
