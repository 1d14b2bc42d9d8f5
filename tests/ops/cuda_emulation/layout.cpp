// The CUDA bindings for tensors of the CPU, as operators ops_dcnv3_layout::*, with launches that do nothing: for the
// layout of what the bindings return.
#include <torch/library.h>

#undef TORCH_LIBRARY_IMPL
#define TORCH_LIBRARY_IMPL(ns, key, m) _TORCH_LIBRARY_IMPL(ops_dcnv3_layout, CPU, m, C10_UID)

#include "bindings.cpp"

namespace ops_dcnv3::cuda {

int64_t max_points(ElementType) { return 1000; }

cudaError_t launch_dcnv3_forward(const Dcnv3Params&, ElementType, const void*, const void*, const void*, void*,
                                 cudaStream_t, int64_t) {
  return cudaSuccess;
}
cudaError_t launch_dcnv3_backward(const Dcnv3Params&, ElementType, const void*, const void*, const void*, const void*,
                                  const Gradients&, bool, cudaStream_t, int64_t) {
  return cudaSuccess;
}
cudaError_t launch_roi_pool_forward(const RoiPoolParams&, ElementType, const void*, const void*, const void*,
                                    const void*, void*, cudaStream_t, int64_t) {
  return cudaSuccess;
}
cudaError_t launch_roi_pool_backward(const RoiPoolParams&, ElementType, const void*, const void*, const void*,
                                     const void*, const void*, const Gradients&, bool, cudaStream_t, int64_t) {
  return cudaSuccess;
}
cudaError_t launch_ms_deform_attn_forward(const MsDeformAttnParams&, ElementType, const AttentionInputs&, void*,
                                          cudaStream_t, int64_t) {
  return cudaSuccess;
}
cudaError_t launch_ms_deform_attn_backward(const MsDeformAttnParams&, ElementType, const void*, const AttentionInputs&,
                                           const AttentionGradients&, bool, cudaStream_t, int64_t) {
  return cudaSuccess;
}

}  // namespace ops_dcnv3::cuda
