// What launches of all operators share. Plain C++: no torch, and no CUDA compiler needed.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace ops_dcnv3::cuda {

constexpr int kThreads = 128, kWarp = 32;

// The largest grid that every GPU takes. Tests lower it to see blocks come round a second time.
constexpr int64_t kMaxBlocks = 2147483647;

inline int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

inline cudaLaunchConfig_t launch_config(int64_t blocks, int threads, int64_t shared_bytes, cudaStream_t stream) {
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(unsigned(blocks));
  config.blockDim = dim3(unsigned(threads));
  config.dynamicSmemBytes = size_t(shared_bytes);
  config.stream = stream;
  return config;
}

// The fewest lanes of a warp, a power of two, that take `channels` at `vector` each; all of them if these are more.
inline int lanes_for(int64_t channels, int vector) {
  int lanes = 1;
  while (lanes < kWarp && lanes * vector < channels) lanes *= 2;
  return lanes;
}

}  // namespace ops_dcnv3::cuda
