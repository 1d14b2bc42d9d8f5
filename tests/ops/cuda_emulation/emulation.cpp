// Runs the CUDA kernels without a GPU. One call comes in on standard input and its result goes out on standard output:
// the number of the operator, a header of int64 and double, then tensors, each with its number of bytes before it.
#include <ucontext.h>

#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <vector>

#include "dcnv3.cu"
#include "ms_deform_attn.cu"
#include "roi_pool.cu"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

dim3 threadIdx, blockIdx, blockDim, gridDim;

// The memory of a block, and as much after it that no kernel may touch.
namespace ops_dcnv3::cuda {
namespace {
float4 shared_memory[2 * kMostSharedBytes / sizeof(float4)];
}
}  // namespace ops_dcnv3::cuda

namespace emulation {
namespace {

[[noreturn]] void fail(const char* reason) {
  std::fprintf(stderr, "emulation: %s (block %u, thread %u)\n", reason, blockIdx.x, threadIdx.x);
  std::exit(3);
}

constexpr size_t kStackBytes = 256 * 1024;

enum class Wait { none, block, warp, done };

struct Fiber {
  ucontext_t context;
  std::unique_ptr<char[]> stack{new char[kStackBytes]};
  void* fake_stack = nullptr;  // AddressSanitizer's
  Wait wait = Wait::none;
  unsigned mask = 0;
  uint64_t bits = 0;
};

std::vector<Fiber> fibers;
ucontext_t scheduler;
int current;
const std::function<void()>* kernel;
const void* scheduler_stack;
size_t scheduler_stack_bytes;

// AddressSanitizer has to know which stack is in use.
void before_switch([[maybe_unused]] void** save, [[maybe_unused]] const void* stack, [[maybe_unused]] size_t bytes) {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_start_switch_fiber(save, stack, bytes);
#endif
}
void after_switch([[maybe_unused]] void* saved, [[maybe_unused]] const void** stack, [[maybe_unused]] size_t* bytes) {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(saved, stack, bytes);
#endif
}

void resume(int index) {
  current = index;
  threadIdx.x = unsigned(index);
  void* fake_stack = nullptr;
  before_switch(&fake_stack, fibers[index].stack.get(), kStackBytes);
  swapcontext(&scheduler, &fibers[index].context);
  after_switch(fake_stack, nullptr, nullptr);
}

void yield() {
  Fiber& fiber = fibers[current];
  before_switch(fiber.wait == Wait::done ? nullptr : &fiber.fake_stack, scheduler_stack, scheduler_stack_bytes);
  swapcontext(&fiber.context, &scheduler);
  after_switch(fiber.fake_stack, nullptr, nullptr);
}

void fiber_main() {
  after_switch(nullptr, &scheduler_stack, &scheduler_stack_bytes);
  (*kernel)();
  fibers[current].wait = Wait::done;
  yield();
}

void start(Fiber& fiber) {
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = fiber.stack.get();
  fiber.context.uc_stack.ss_size = kStackBytes;
  fiber.context.uc_link = nullptr;
  fiber.wait = Wait::none;
  makecontext(&fiber.context, fiber_main, 0);
}

// Lets the threads go whose barrier is complete: a barrier counts for all threads that it is for, ended ones included,
// which is stricter than CUDA. Returns whether any is free to run.
bool release() {
  const int threads = int(fibers.size());
  bool any = false, whole_block = true;
  for (const Fiber& fiber : fibers) whole_block = whole_block && fiber.wait == Wait::block;
  if (whole_block) {
    for (Fiber& fiber : fibers) fiber.wait = Wait::none;
  }
  for (int warp = 0; warp < threads; warp += kWarpSize) {
    unsigned arrived = 0;
    for (int i = 0; i < kWarpSize && warp + i < threads; ++i) {
      if (fibers[warp + i].wait == Wait::warp) arrived |= 1u << i;
    }
    std::vector<int> complete;
    for (int i = 0; i < kWarpSize && warp + i < threads; ++i) {
      const Fiber& fiber = fibers[warp + i];
      if (fiber.wait == Wait::warp && (fiber.mask & ~arrived) == 0) complete.push_back(warp + i);
    }
    for (int i : complete) fibers[i].wait = Wait::none;
  }
  for (const Fiber& fiber : fibers) any = any || fiber.wait == Wait::none;
  return any;
}

void run_block() {
  for (Fiber& fiber : fibers) start(fiber);
  const int threads = int(fibers.size());
  const bool backwards = blockIdx.x % 2;  // a result must not depend on which thread comes first
  do {
    for (int i = 0; i < threads; ++i) {
      const int index = backwards ? threads - 1 - i : i;
      if (fibers[index].wait == Wait::none) resume(index);
    }
  } while (release());
  for (const Fiber& fiber : fibers) {
    if (fiber.wait != Wait::done) fail("threads wait for others that never come");
  }
}

}  // namespace

int lane() { return current % kWarpSize; }

void wait_for_block() {
  fibers[current].wait = Wait::block;
  yield();
}

uint64_t wait_for_warp(unsigned mask, uint64_t bits, int lane) {
  // Two slots by turns: a lane may come to the next barrier before the others have read what it brought to this one.
  static uint64_t brought[2][kMostThreads];
  static bool turn[kMostThreads];
  const int self = current, first = self / kWarpSize * kWarpSize, slot = turn[self];
  if (lane < 0 || lane >= kWarpSize || !(mask >> lane & 1)) fail("a shuffle reads a lane that is not part of it");
  turn[self] = !turn[self];
  brought[slot][self] = bits;
  fibers[self].mask = mask;
  fibers[self].wait = Wait::warp;
  yield();
  return brought[slot][first + lane];
}

cudaError_t launch(dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()>& thread) {
  if (grid.x < 1 || grid.x > kMostBlocks || block.x < 1 || block.x > kMostThreads || shared_bytes > kMostSharedBytes) {
    return cudaErrorInvalidValue;
  }
  if (block.x % kWarpSize) fail("warps of less than 32 threads, which shuffles with the full mask do not allow");
  fibers = std::vector<Fiber>(block.x);
  kernel = &thread;
  gridDim = grid, blockDim = block;
  char* memory = reinterpret_cast<char*>(ops_dcnv3::cuda::shared_memory);
  [[maybe_unused]] const size_t memory_bytes = sizeof(ops_dcnv3::cuda::shared_memory);
#ifdef __SANITIZE_ADDRESS__
  ASAN_POISON_MEMORY_REGION(memory + shared_bytes, memory_bytes - shared_bytes);
#endif
  for (blockIdx.x = 0; blockIdx.x < grid.x; ++blockIdx.x) {
    std::memset(memory, 0xff, shared_bytes);  // NaN
    run_block();
  }
#ifdef __SANITIZE_ADDRESS__
  ASAN_UNPOISON_MEMORY_REGION(memory, memory_bytes);
#endif
  return cudaSuccess;
}

}  // namespace emulation

namespace {

template <typename T>
T read() {
  T value;
  if (std::fread(&value, sizeof(T), 1, stdin) != 1) std::exit(2);
  return value;
}

// A tensor alone in its memory, so that AddressSanitizer sees every access beside it. Aligned as by torch's allocator,
// or `shift` bytes off, as a slice may be.
struct Tensor {
  size_t bytes, shift;
  char* memory;

  Tensor(size_t bytes, size_t shift) : bytes(bytes), shift(shift) {
    void* aligned = nullptr;
    if (posix_memalign(&aligned, 64, bytes + shift) != 0) std::exit(2);
    memory = static_cast<char*>(aligned);
  }
  Tensor(const Tensor&) = delete;
  ~Tensor() { std::free(memory); }
  void* data() { return memory + shift; }
  void* data_or_null() { return bytes ? data() : nullptr; }
  void read() {
    if (bytes && std::fread(data(), 1, bytes, stdin) != bytes) std::exit(2);
  }
  void write() {
    if (bytes) std::fwrite(data(), 1, bytes, stdout);
  }
};

// What a call brings, and then what it gives back.
struct Call {
  std::vector<std::unique_ptr<Tensor>> tensors;
  size_t given = 0;

  // `shift`: bytes by which the tensors are off their alignment. `summed`: a result that is added to, and starts at
  // zero; everything else is to be written.
  void read_tensors(int count, int64_t shift, int results, int summed) {
    for (int i = 0; i < count; ++i) {
      tensors.emplace_back(new Tensor(size_t(read<int64_t>()), size_t(shift)));
      tensors.back()->read();
    }
    given = tensors.size();
    for (int i = 0; i < results; ++i) {
      tensors.emplace_back(new Tensor(size_t(read<int64_t>()), 0));
      std::memset(tensors.back()->data(), i == summed ? 0 : 0xff, tensors.back()->bytes);
    }
  }
  void* data(size_t i) { return tensors[i]->data(); }
  void* data_or_null(size_t i) { return tensors[i]->data_or_null(); }
  void write(int64_t error, int64_t limit) {
    std::fwrite(&error, sizeof(error), 1, stdout);
    std::fwrite(&limit, sizeof(limit), 1, stdout);
    for (size_t i = given; i < tensors.size(); ++i) tensors[i]->write();
  }
};

void run_dcnv3() {
  using namespace ops_dcnv3;
  const bool backward = read<int64_t>(), deterministic = read<int64_t>();
  const auto type = cuda::ElementType(read<int64_t>());
  const int64_t max_blocks = read<int64_t>(), shift = read<int64_t>();
  Dcnv3Params p{};
  for (int64_t* field : {&p.batch, &p.height, &p.width, &p.out_height, &p.out_width, &p.groups, &p.group_channels,
                         &p.points, &p.kernel_h, &p.kernel_w, &p.stride_h, &p.stride_w, &p.pad_h, &p.pad_w,
                         &p.dilation_h, &p.dilation_w, &p.offset_stride, &p.mask_stride}) {
    *field = read<int64_t>();
  }
  p.remove_center = read<int64_t>();
  p.softmax = read<int64_t>();
  p.offset_scale = read<double>();

  // input, offset, mask, grad_output; then the output, or three gradients.
  Call call;
  call.read_tensors(backward ? 4 : 3, shift, backward ? 3 : 1, backward ? 0 : -1);
  auto data = [&](size_t i) { return call.data(i); };
  cudaError_t error;
  if (backward) {
    const cuda::Gradients gradients{call.data_or_null(4), call.data_or_null(5), call.data_or_null(6)};
    error = cuda::launch_dcnv3_backward(p, type, data(3), data(0), data(1), data(2), gradients, deterministic, nullptr,
                                        max_blocks);
  } else {
    error = cuda::launch_dcnv3_forward(p, type, data(0), data(1), data(2), data(3), nullptr, max_blocks);
  }
  call.write(error, cuda::max_points(type));
}

void run_roi_pool() {
  using namespace ops_dcnv3;
  const bool is_double = read<int64_t>(), backward = read<int64_t>(), deterministic = read<int64_t>();
  const auto type = is_double ? cuda::ElementType::float64 : cuda::ElementType::float32;
  const int64_t max_blocks = read<int64_t>();
  RoiPoolParams p{};
  for (int64_t* field :
       {&p.batch, &p.classes, &p.height, &p.width, &p.depth, &p.rois, &p.bins_h, &p.bins_w, &p.sampling_ratio}) {
    *field = read<int64_t>();
  }
  p.position_sensitive = read<int64_t>();
  p.spatial_scale = read<double>();
  p.gamma = read<double>();

  // input, rois, offset, mask, grad_output; then the output, or three gradients.
  Call call;
  call.read_tensors(backward ? 5 : 4, 0, backward ? 3 : 1, backward ? 0 : -1);
  auto get = [&](size_t i) { return call.data_or_null(i); };
  cudaError_t error;
  if (backward) {
    const cuda::Gradients gradients{get(5), get(6), get(7)};
    error = cuda::launch_roi_pool_backward(p, type, get(4), get(0), get(1), get(2), get(3), gradients, deterministic,
                                           nullptr, max_blocks);
  } else {
    error = cuda::launch_roi_pool_forward(p, type, get(0), get(1), get(2), get(3), get(4), nullptr, max_blocks);
  }
  call.write(error, 0);
}

void run_ms_deform_attn() {
  using namespace ops_dcnv3;
  const bool backward = read<int64_t>(), deterministic = read<int64_t>();
  const auto type = cuda::ElementType(read<int64_t>());
  const int64_t max_blocks = read<int64_t>(), shift = read<int64_t>();
  MsDeformAttnParams p{};
  for (int64_t* field : {&p.batch, &p.pixels, &p.queries, &p.heads, &p.head_channels, &p.levels, &p.points}) {
    *field = read<int64_t>();
  }

  // shapes, starts, value, locations, weights, grad_output; then the output, or three gradients.
  Call call;
  call.read_tensors(2, 0, 0, -1);
  call.read_tensors(backward ? 4 : 3, shift, backward ? 3 : 1, backward ? 0 : -1);
  auto get = [&](size_t i) { return call.data_or_null(i); };
  const cuda::AttentionInputs in{static_cast<const int64_t*>(get(0)), static_cast<const int64_t*>(get(1)), get(2),
                                 get(3), get(4)};
  cudaError_t error;
  if (backward) {
    error = cuda::launch_ms_deform_attn_backward(p, type, get(5), in, {get(6), get(7), get(8)}, deterministic, nullptr,
                                                 max_blocks);
  } else {
    error = cuda::launch_ms_deform_attn_forward(p, type, in, get(5), nullptr, max_blocks);
  }
  call.write(error, 0);
}

}  // namespace

int main() {
  switch (read<int64_t>()) {
    case 0:
      run_dcnv3();
      break;
    case 1:
      run_roi_pool();
      break;
    default:
      run_ms_deform_attn();
  }
}
