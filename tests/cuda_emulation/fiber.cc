#include "fiber.h"

#include <sys/mman.h>

#include <cstdint>
#include <new>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

// Saves what a function must keep for its caller, changes stacks, takes the other's back.
extern "C" void dr_switch_stack(void** save, void* load);
asm(R"(
.text
.globl dr_switch_stack
.type dr_switch_stack, @function
dr_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size dr_switch_stack, . - dr_switch_stack
)");

namespace cuda_emulation {
namespace {
constexpr std::size_t kGuard = 4096;
}

Fiber::Fiber(std::size_t stack_bytes) : bytes_(stack_bytes) {
  stack_ = mmap(nullptr, bytes_ + kGuard, PROT_READ | PROT_WRITE,
                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (stack_ == MAP_FAILED) throw std::bad_alloc();
  mprotect(stack_, kGuard, PROT_NONE);
  bottom_ = static_cast<std::byte*>(stack_) + kGuard;
  stack_pointer_ = static_cast<std::byte*>(stack_) + kGuard;
}

Fiber::~Fiber() {
  if (stack_) munmap(stack_, bytes_ + kGuard);
}

void Fiber::start(void (*entry)()) {
#if defined(__SANITIZE_ADDRESS__)
  // Below the place where it was last left every function had returned.
  const auto* end = static_cast<const std::byte*>(bottom_) + bytes_;
  const auto* left_at = static_cast<const std::byte*>(stack_pointer_);
  __asan_unpoison_memory_region(left_at, static_cast<std::size_t>(end - left_at));
  fake_stack_ = nullptr;
#endif
  // entry is entered by `ret`, so the stack must look as after a call: 8 below a multiple of 16.
  auto* top = reinterpret_cast<void**>(static_cast<std::byte*>(stack_) + kGuard + bytes_) - 2;
  *top = reinterpret_cast<void*>(entry);
  for (int i = 0; i < 6; ++i) *--top = nullptr;
  stack_pointer_ = top;
}

namespace {
Fiber* left = nullptr;  // by the switch under way; one OS thread at a time runs fibers
}

void Fiber::switch_to(Fiber& from, Fiber& to) {
  left = &from;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(&from.fake_stack_, to.bottom_, to.bytes_);
#endif
  dr_switch_stack(&from.stack_pointer_, to.stack_pointer_);
  arrived(from.fake_stack_);
}

// AddressSanitizer tells the bounds of the stack that was left: the caller's own are known so.
void Fiber::arrived([[maybe_unused]] void* fake_stack) {
#if defined(__SANITIZE_ADDRESS__)
  const void* bottom;
  std::size_t bytes;
  __sanitizer_finish_switch_fiber(fake_stack, &bottom, &bytes);
  if (!left->stack_) left->bottom_ = bottom, left->bytes_ = bytes;
#endif
}

}  // namespace cuda_emulation
