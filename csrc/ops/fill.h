#pragma once
// Where a run of made-up weights begins in its table (ops::fill_linear), for the CPU and for
// kernels: counted, not drawn one after another, so that any part can be made at any time.
#include <cstdint>

#ifdef __CUDACC__
#define DR_HOST_DEVICE __host__ __device__
#else
#define DR_HOST_DEVICE
#endif

namespace dream_r::ops {

constexpr std::int64_t kFillRun = 2048;       // words of the table in a row
constexpr std::int64_t kFillOffsets = 65536;  // where a run may begin

// `at`: where the run goes, in words from the weight's first.
DR_HOST_DEVICE inline std::int64_t fill_offset(std::uint64_t key, std::int64_t at) {
  std::uint64_t h = key + static_cast<std::uint64_t>(at);
  h = (h ^ (h >> 30)) * 0xbf58476d1ce4e5b9u;
  h = (h ^ (h >> 27)) * 0x94d049bb133111ebu;
  return static_cast<std::int64_t>((h ^ (h >> 31)) % kFillOffsets);
}

}  // namespace dream_r::ops
