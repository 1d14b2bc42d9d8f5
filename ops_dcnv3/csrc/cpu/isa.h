// Whether the kernels for AVX2 and AVX-512 are built beside the portable ones. No code: included before the target is
// set.
#pragma once

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#define OPS_DCNV3_X86 1
#endif
