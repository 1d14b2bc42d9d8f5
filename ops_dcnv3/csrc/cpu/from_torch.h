// What the CPU operators share: the choice of the instruction set, tensors as the kernels see them, and how threads
// share a backward pass. For .cpp files that know torch.
#pragma once

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/Tensor.h>

#include <cstdlib>
#include <memory>
#include <new>
#include <string>

#include "element_types.h"
#include "isa.h"

namespace ops_dcnv3 {

// Kernels do not know torch's 16-bit types; they have the same bits.
template <typename T>
struct Storage {
  using type = T;
};
template <>
struct Storage<at::BFloat16> {
  using type = BFloat16;
};
template <>
struct Storage<at::Half> {
  using type = Half;
};

#define OPS_DCNV3_DISPATCH(dtype, name, ...) \
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, dtype, name, __VA_ARGS__)

template <typename T>
auto* storage(const at::Tensor& tensor) {
  return reinterpret_cast<typename Storage<T>::type*>(tensor.data_ptr<T>());
}

// Memory that a task has to itself, from the start of a cache line on.
constexpr std::align_val_t kCacheLine{64};
struct WorkspaceDeleter {
  void operator()(char* memory) const { ::operator delete[](memory, kCacheLine); }
};
inline std::unique_ptr<char[], WorkspaceDeleter> allocate_workspace(int64_t bytes) {
  return std::unique_ptr<char[], WorkspaceDeleter>(static_cast<char*>(::operator new[](bytes, kCacheLine)));
}

enum class Capability { portable, avx2, avx512 };

// The widest that this processor has, or less if ATEN_CPU_CAPABILITY says so, as for torch's own kernels.
inline Capability detect_capability() {
#ifdef OPS_DCNV3_X86
  const char* variable = std::getenv("ATEN_CPU_CAPABILITY");
  const std::string limit = variable ? variable : "";
  const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool has_avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                          __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (limit == "default") return Capability::portable;
  if (has_avx512 && limit != "avx2") return Capability::avx512;
  if (has_avx2) return Capability::avx2;
#endif
  return Capability::portable;
}

inline Capability capability() {
  static const Capability detected = detect_capability();
  return detected;
}

// The threads of a backward pass. The gradient of the input is added up by one of them per image and share of its
// groups of channels: no atomics, and the order of the sum, so its rounding, does not depend on the number of threads.
// Where that leaves threads idle, the gradients by the points, which need no such care, go row by row in a pass of
// their own.
//
// share(image, group_begin, group_end, with_points) adds to the gradient of the input; points() gives the gradients by
// the points alone.
template <typename Points, typename Share>
void for_gradient_shares(int64_t batch, int64_t groups, bool wants_input, bool wants_points, Points points,
                         Share share) {
  const int64_t threads = at::get_num_threads();
  auto balanced = [&](int64_t tasks) { return tasks % threads == 0 || tasks >= 4 * threads; };
  int64_t shares = 1;
  while (shares < groups && !balanced(batch * shares)) ++shares;
  const bool one_pass = wants_input && balanced(batch * shares);
  if (wants_points && !one_pass) points();
  if (!wants_input) return;
  at::parallel_for(0, batch * shares, 1, [&](int64_t begin, int64_t end) {
    for (; begin < end; ++begin) {
      const int64_t i = begin % shares;
      share(begin / shares, i * groups / shares, (i + 1) * groups / shares, one_pass);
    }
  });
}

}  // namespace ops_dcnv3
