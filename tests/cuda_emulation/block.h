#pragma once
// A block of threads on one processor core: each CUDA thread is a fiber, all of one OS thread, and
// runs until it waits for others (barrier, warp operation) or ends. Blocks run one after another.
//
// What no such run can miss, it reports (the launch fails with the text): a barrier or a warp
// operation that some threads never reach, threads of a warp at different barriers, a block of a
// kernel that may start early and never waits for the one in front of it. Fibers resume
// in rising order of their index; DREAM_R_EMULATION_ORDER=descending turns the order of blocks,
// warps and lanes round, so that a missing barrier gives other results in one of the two.
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <source_location>
#include <string>

namespace cuda_emulation {

struct Dim {
  unsigned x = 1, y = 1, z = 1;
};

struct Kernel {
  Dim grid, block;
  std::size_t dynamic_bytes = 0;
  std::function<void()> body;  // every thread's
  bool early = false;          // by programmatic dependent launch
};

// One run of a kernel. Two may be under way: one, and an early one behind it that has started.
class Grid {
 public:
  explicit Grid(const Kernel& kernel);
  ~Grid();
  Grid(const Grid&) = delete;
  Grid& operator=(const Grid&) = delete;
  // What an early kernel may do before the one in front of it runs: the threads of its first block
  // go as far as their wait for that one.
  void start();
  // All the rest. Returns what went wrong, empty if nothing.
  std::string finish();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// ---- called by the thread that runs
// --------------------------------------------------------------
void sync_block(std::source_location at);
// Waits until every lane of `mask` has come to the same operation; the last one calls
// combine(payloads), indexed by lane and null outside `mask`, then all go on.
using Combine = void (*)(void* const* payload, std::uint32_t mask);
void warp_operation(const char* name, std::uint32_t mask, void* payload, Combine combine,
                    std::source_location at);
int lane();
void* dynamic_shared();
void wait_for_previous_kernel();
void let_next_kernel_start();
// cp.async may copy at any moment from its issue to the wait for its group: here as late as that
// or, in descending order, at once, which shows a buffer that is filled while others still read it.
void copy_later(void* to, const void* from, std::size_t bytes, std::size_t from_bytes);
void close_copy_group();
void wait_copy_groups(int still_open);
[[noreturn]] void fault(const std::string& what);

}  // namespace cuda_emulation
