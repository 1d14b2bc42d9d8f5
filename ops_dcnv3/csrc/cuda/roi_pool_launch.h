// What the CUDA kernels of RoI pooling offer to code that knows tensors. Plain C++: no torch, and no CUDA compiler needed.
#pragma once

#include "launch.h"
#include "roi_pool.h"

namespace ops_dcnv3::cuda {

// T is float or double. All pointers are device pointers, laid out as RoiPoolParams says.
template <typename T>
cudaError_t launch_roi_pool_forward(const RoiPoolParams& p, const RoiPoolInputs<T>& in, T* output, cudaStream_t stream,
                                    int64_t max_blocks = kMaxBlocks);

// A gradient that is not wanted is null.
template <typename T>
struct RoiPoolGradients {
  T* input;   // holds zeros
  T* offset;
  T* mask;    // (rois, bins, classes): a sum over the classes is left to be done
};

// Atomics add the gradient of the input up in any order. With `deterministic` it is summed in a fixed order, slowly.
// grad_output is laid out like the output.
template <typename T>
cudaError_t launch_roi_pool_backward(const RoiPoolParams& p, const RoiPoolInputs<T>& in, const T* grad_output,
                                     const RoiPoolGradients<T>& gradients, bool deterministic, cudaStream_t stream,
                                     int64_t max_blocks = kMaxBlocks);

}  // namespace ops_dcnv3::cuda
