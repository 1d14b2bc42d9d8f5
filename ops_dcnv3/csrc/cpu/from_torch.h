// What the CPU operators share: the choice of the instruction set, and tensors as the kernels see them. For .cpp files
// that know torch.
#pragma once

#include <ATen/Dispatch.h>
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

}  // namespace ops_dcnv3
