#pragma once
// A stack that can be left and entered again (x86-64, System V calling convention).
#include <cstddef>

namespace cuda_emulation {

class Fiber {
 public:
  Fiber() = default;  // the caller's own stack
  explicit Fiber(std::size_t stack_bytes);
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;
  // The next switch to it calls entry(), which never returns, at the top of an empty stack.
  void start(void (*entry)());
  // Leaves `from`, which is running, and enters `to`.
  static void switch_to(Fiber& from, Fiber& to);
  // The first thing to do on a stack that start() made.
  static void begin() { arrived(nullptr); }

 private:
  static void arrived(void* fake_stack);

  void* stack_pointer_ = nullptr;
  void* stack_ = nullptr;  // with a guard page at its low end
  std::size_t bytes_ = 0;
  void* fake_stack_ = nullptr;  // AddressSanitizer's
  const void* bottom_ = nullptr;
};

}  // namespace cuda_emulation
