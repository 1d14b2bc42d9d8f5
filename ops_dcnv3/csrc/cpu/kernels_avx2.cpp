// The kernels for AVX2. The standard headers come before the target is set: what they define is shared with other
// files.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>
#include <utility>

#include "isa.h"

#ifdef OPS_DCNV3_X86
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx2,fma")
#endif
#define OPS_DCNV3_ISA avx2
#define OPS_DCNV3_VECTOR_BYTES 32
#include "dcnv3_kernel.h"
#include "depthwise_kernel.h"
#include "ms_deform_attn_kernel.h"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
