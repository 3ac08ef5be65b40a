#pragma once
// Polling before sleeping, for hand-offs that cost less than waking a thread does.
#include <chrono>
#include <thread>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace dream_r {

// Polls `done` until it holds (true) or `spin_us` have passed (false). After about 2 us the
// processor is offered to others between polls: where the waiting and the working share one core,
// the one that has work must not wait for the other's patience.
template <class F>
bool spin_until(F&& done, int spin_us) {
  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  for (bool polite = false;;) {
    for (int i = 0; i < (polite ? 4 : 32); ++i) {
      if (done()) return true;
#if defined(__x86_64__)
      _mm_pause();
#endif
    }
    const auto waited = Clock::now() - start;
    if (waited >= std::chrono::microseconds(spin_us)) return false;
    polite = waited >= std::chrono::microseconds(2);
    if (polite) std::this_thread::yield();
  }
}

}  // namespace dream_r
