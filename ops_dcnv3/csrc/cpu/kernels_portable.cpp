// The kernels with the 16-byte vectors that every 64-bit processor has (SSE2, NEON).
#define OPS_DCNV3_ISA portable
#define OPS_DCNV3_VECTOR_BYTES 16
#include "dcnv3_kernel.h"
#include "depthwise_kernel.h"
#include "ms_deform_attn_kernel.h"
