// What the CUDA kernels of multi-scale deformable attention offer to code that knows tensors. Plain C++: no torch, and
// no CUDA compiler needed.
#pragma once

#include "launch.h"
#include "ms_deform_attn.h"

namespace ops_dcnv3::cuda {

// Device pointers, laid out as ms_deform_attn.h says. locations and weights are float, for float64 double. A level that
// does not lie inside the value gives NaN.
struct AttentionInputs {
  const int64_t *shapes, *starts;  // (levels, 2), height before width; (levels)
  const void *value, *locations, *weights;
};

// Where the backward pass writes, float, for float64 double; a gradient that is not wanted is null.
struct AttentionGradients {
  void* value;  // is added to, so holds zeros
  void *locations, *weights;
};

cudaError_t launch_ms_deform_attn_forward(const MsDeformAttnParams& p, ElementType type, const AttentionInputs& in,
                                          void* output, cudaStream_t stream, int64_t max_blocks = kMaxBlocks);

// deterministic: the gradient of the value is summed in a fixed order, slowly, and not with atomics.
cudaError_t launch_ms_deform_attn_backward(const MsDeformAttnParams& p, ElementType type, const void* grad_output,
                                           const AttentionInputs& in, const AttentionGradients& gradients,
                                           bool deterministic, cudaStream_t stream, int64_t max_blocks = kMaxBlocks);

}  // namespace ops_dcnv3::cuda
