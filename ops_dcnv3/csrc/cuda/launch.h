// What launches of all operators share. Plain C++: no torch, and no CUDA compiler needed.
//
// An operator `x` has a header x_launch.h with launch_x_forward and launch_x_backward, which take its parameters, the
// type of the elements, device pointers laid out as its parameters say, and the stream. They return an error or
// cudaSuccess, and do nothing where there is nothing to do.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace ops_dcnv3::cuda {

enum class ElementType { float32, float64, float16, bfloat16 };

// Where a backward pass writes; a gradient that is not wanted is null.
struct Gradients {
  void* input;  // is added to, so holds zeros; float for the 16-bit types, else of the type of the elements
  void* offset;
  void* mask;
};

constexpr int kThreads = 128, kWarp = 32;

// The largest grid that every GPU takes. Tests lower it to see blocks come round a second time.
constexpr int64_t kMaxBlocks = 2147483647;

inline int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// `blocks`, or max_blocks if these are fewer, each of which then works more than once.
inline cudaLaunchConfig_t launch_config(int64_t blocks, int threads, int64_t shared_bytes, cudaStream_t stream,
                                        int64_t max_blocks) {
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(unsigned(blocks < max_blocks ? blocks : max_blocks));
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

// Bands of rows for gradients that are summed in a fixed order: each thread has `columns` of a band to itself. Some ten
// thousand threads fill a GPU; more of them only repeat the walk over the output.
struct Bands {
  int64_t count, rows;
};

inline Bands bands_for(int64_t height, int64_t columns) {
  const int64_t rows = divide_up(height, divide_up(50000, columns));
  return {divide_up(height, rows), rows};
}

}  // namespace ops_dcnv3::cuda
