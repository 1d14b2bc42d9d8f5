#pragma once

#include <cstddef>
#include <cstdint>

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace ops_dcnv3 {

// A large new tensor costs more to hand out, page by page, than to fill: ask for huge pages.
inline void use_huge_pages(void* memory, size_t bytes) {
#ifdef __linux__
  constexpr uintptr_t kHuge = 2 << 20;
  const uintptr_t data = reinterpret_cast<uintptr_t>(memory), end = (data + bytes) / kHuge * kHuge;
  const uintptr_t begin = (data + kHuge - 1) / kHuge * kHuge;
  if (begin + 8 * kHuge <= end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

}  // namespace ops_dcnv3
