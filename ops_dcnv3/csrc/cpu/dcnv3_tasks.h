// What the threads of the CPU implementation call: one table of functions per instruction set, without any torch type.
#pragma once

#include "dcnv3.h"
#include "element_types.h"
#include "isa.h"

namespace ops_dcnv3 {

// Gradients that are not asked for are null. grad_input is accumulated into (float for 16-bit types), the others are
// written.
template <typename T>
struct Dcnv3Gradients {
  accumulate_t<T>* input;
  T* offset;
  T* mask;
};

template <typename T>
struct Dcnv3Tasks {
  // Memory that a task needs to itself, in bytes, aligned to 64.
  int64_t (*workspace_bytes)(const Dcnv3Params&);

  // Output rows row_begin <= n * out_height + y < row_end.
  void (*forward)(const Dcnv3Params&, const T* input, const T* offset, const T* mask, T* output, int64_t row_begin,
                  int64_t row_end, void* workspace);

  // The same rows, of the groups group_begin <= g < group_end. Two tasks may run at once when they differ in the
  // images, when they share no group, or when the gradient of the input is not asked for.
  void (*backward)(const Dcnv3Params&, const T* input, const T* offset, const T* mask, const T* grad_output,
                   const Dcnv3Gradients<T>&, int64_t group_begin, int64_t group_end, int64_t row_begin, int64_t row_end,
                   void* workspace);
};

// Declares the table of one instruction set; its .cpp file defines it for the four element types.
#define OPS_DCNV3_DECLARE_TASKS(isa)  \
  namespace isa {                     \
  template <typename T>               \
  const Dcnv3Tasks<T>& dcnv3_tasks(); \
  }

OPS_DCNV3_DECLARE_TASKS(portable)
#ifdef OPS_DCNV3_X86
OPS_DCNV3_DECLARE_TASKS(avx2)
OPS_DCNV3_DECLARE_TASKS(avx512)
#endif

}  // namespace ops_dcnv3
