// What the CUDA kernels of RoI pooling offer to code that knows tensors. Plain C++: no torch, and no CUDA compiler
// needed.
#pragma once

#include "launch.h"
#include "roi_pool.h"

namespace ops_dcnv3::cuda {

// The type is float32 or float64. offset and mask may be null.
cudaError_t launch_roi_pool_forward(const RoiPoolParams& p, ElementType type, const void* input, const void* rois,
                                    const void* offset, const void* mask, void* output, cudaStream_t stream,
                                    int64_t max_blocks = kMaxBlocks);

// grad_output is laid out like the output. The gradient of the mask is (rois, bins, classes): a sum over the classes is
// left to be done. Atomics add the gradient of the input up in any order; with `deterministic` it is summed in a fixed
// order, slowly.
cudaError_t launch_roi_pool_backward(const RoiPoolParams& p, ElementType type, const void* grad_output,
                                     const void* input, const void* rois, const void* offset, const void* mask,
                                     const Gradients& gradients, bool deterministic, cudaStream_t stream,
                                     int64_t max_blocks = kMaxBlocks);

}  // namespace ops_dcnv3::cuda
