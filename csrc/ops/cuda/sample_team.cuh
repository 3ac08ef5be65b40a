#pragma once
// Searches over the candidates of one row, by a warp where there are few and by a block where there
// are many: a team has a rank, a size, a barrier and sums. Weights are integers, whose sums are the
// same in every order.
#include "ops/cuda/reduce.cuh"

namespace dream_r::cuda {

using Count = unsigned long long;

struct Candidate {  // in the order of their ids
  Count weight;     // 0: no longer a candidate
  std::uint32_t key;
  std::int32_t id;
};

__device__ __forceinline__ int lane_id() { return static_cast<int>(threadIdx.x) % kWarp; }
__device__ __forceinline__ int warp_id() { return static_cast<int>(threadIdx.x) / kWarp; }

struct WarpTeam {
  static constexpr int kSize = kWarp;
  __device__ int rank() const { return lane_id(); }
  __device__ int warp() const { return 0; }
  __device__ void sync() const { __syncwarp(); }
  __device__ Count sum(Count value) const {
    return warp_reduce(value, [](Count a, Count b) { return a + b; });
  }
  // Sum of the warps before this one; `mine` is the warp's.
  __device__ Count before_warp(Count) const { return 0; }
  // The value of the one warp that has found it.
  __device__ int from_finder(int value, bool) const { return value; }
};

template <int kThreads>
struct BlockTeam {
  static constexpr int kSize = kThreads;
  __device__ int rank() const { return static_cast<int>(threadIdx.x); }
  __device__ int warp() const { return warp_id(); }
  __device__ void sync() const { __syncthreads(); }
  __device__ Count sum(Count value) const { return block_sum(value); }
  __device__ Count before_warp(Count mine) const {
    __shared__ Count sums[kThreads / kWarp];
    __syncthreads();
    if (lane_id() == 0) sums[warp()] = mine;
    __syncthreads();
    Count before = 0;
    for (int w = 0; w < warp(); ++w) before += sums[w];
    return before;
  }
  __device__ int from_finder(int value, bool found) const {
    __shared__ int shared;
    __syncthreads();
    if (found && lane_id() == 0) shared = value;
    __syncthreads();
    return shared;
  }
};

// [begin, end) of n items for this warp to walk; neighbouring warps have neighbouring parts.
struct Part {
  int begin, end;
};
template <class Team>
__device__ Part part_of_warp(Team team, int n) {
  const int size = (n + Team::kSize - 1) / Team::kSize * kWarp;
  const int begin = min(n, team.warp() * size);
  return {begin, min(n, begin + size)};
}

// The team's sum of value(i) over i < n.
template <class Team, class F>
__device__ Count sum_of(Team team, int n, F value) {
  Count sum = 0;
  for (int i = team.rank(); i < n; i += Team::kSize) sum += value(i);
  return team.sum(sum);
}

// The largest key v for which the sum of value(i, v), falling as v rises, is at least `enough`.
template <class Team, class F>
__device__ std::uint32_t largest_key(Team team, int n, Count enough, F value) {
  std::uint32_t v = 0;
  for (int bit = 31; bit >= 0; --bit) {
    const std::uint32_t trial = v | 1u << bit;
    if (sum_of(team, n, [&](int i) { return value(i, trial); }) >= enough) v = trial;
  }
  return v;
}

// The first i at which the running sum of value(i) exceeds `target`, which is less than the whole
// sum.
template <class Team, class F>
__device__ int locate(Team team, int n, Count target, F value) {
  const Part part = part_of_warp(team, n);
  Count mine = 0;
  for (int i = part.begin + lane_id(); i < part.end; i += kWarp) mine += value(i);
  mine = WarpTeam{}.sum(mine);
  Count before = team.before_warp(mine);
  const bool here = before <= target && target < before + mine;  // of one warp, and all of it
  int found = 0;
  for (int first = part.begin; here && first < part.end && before <= target; first += kWarp) {
    const int i = first + lane_id();
    Count upto = i < part.end ? value(i) : 0;
    for (int offset = 1; offset < kWarp; offset *= 2) {
      const Count lower = __shfl_up_sync(kAllLanes, upto, offset);
      if (lane_id() >= offset) upto += lower;
    }
    const unsigned over = __ballot_sync(kAllLanes, before + upto > target);
    if (over) found = first + __ffs(static_cast<int>(over)) - 1;
    before += __shfl_sync(kAllLanes, upto, kWarp - 1);
  }
  return team.from_finder(found, here);
}

}  // namespace dream_r::cuda
