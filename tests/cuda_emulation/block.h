#pragma once
// A block of threads on one processor core: each CUDA thread is a fiber, all of one OS thread, and
// runs until it waits for others (barrier, warp operation) or ends. Blocks run one after another.
//
// What no such run can miss, it reports (the launch fails with the text): a barrier or a warp
// operation that some threads never reach, threads of a warp at different barriers. Fibers resume
// in rising order of their index; DREAM_R_EMULATION_ORDER=descending turns the order of blocks,
// warps and lanes round, so that a missing barrier gives other results in one of the two.
#include <cstddef>
#include <cstdint>
#include <functional>
#include <source_location>
#include <string>

namespace cuda_emulation {

struct Dim {
  unsigned x = 1, y = 1, z = 1;
};

// Runs body() once as every thread of every block. Returns what went wrong, empty if nothing.
std::string run_grid(Dim grid, Dim block, std::size_t dynamic_bytes,
                     const std::function<void()>& body);

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
// cp.async may copy at any moment from its issue to the wait for its group: here as late as that
// or, in descending order, at once, which shows a buffer that is filled while others still read it.
void copy_later(void* to, const void* from, std::size_t bytes, std::size_t from_bytes);
void close_copy_group();
void wait_copy_groups(int still_open);
[[noreturn]] void fault(const std::string& what);

}  // namespace cuda_emulation
