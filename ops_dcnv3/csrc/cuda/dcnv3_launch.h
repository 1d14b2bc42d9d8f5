// What the CUDA kernels of DCNv3 offer to code that knows tensors. Plain C++: no torch, and no CUDA compiler needed.
#pragma once

#include "dcnv3.h"
#include "launch.h"

namespace ops_dcnv3::cuda {

// The points of a pair are kept in shared memory: the most that fit, a window of 35 x 35 pixels, or 27 x 27 in double.
// More points are cudaErrorInvalidConfiguration.
int64_t max_points(ElementType type);

cudaError_t launch_dcnv3_forward(const Dcnv3Params& p, ElementType type, const void* input, const void* offset,
                                 const void* mask, void* output, cudaStream_t stream, int64_t max_blocks = kMaxBlocks);

// The gradients of offset and mask are contiguous. Atomics add the gradient of the input up in any order; with
// `deterministic` it is summed in a fixed order, slowly.
cudaError_t launch_dcnv3_backward(const Dcnv3Params& p, ElementType type, const void* grad_output, const void* input,
                                  const void* offset, const void* mask, const Gradients& gradients, bool deterministic,
                                  cudaStream_t stream, int64_t max_blocks = kMaxBlocks);

}  // namespace ops_dcnv3::cuda
