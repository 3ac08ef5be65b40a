#pragma once
// A row of logits as the blocks that share it see it: where what they find lies, which part is
// whose, and which of them is the last.
#include "ops/cuda/kernels.h"
#include "ops/cuda/order.cuh"
#include "ops/cuda/sample_choose.cuh"

namespace dream_r::cuda::sampling {

constexpr int kThreads = 256, kWarps = kThreads / kWarp;
constexpr int kPart = 128;  // of a warp
constexpr int kSlice = kWarps * kPart;
using Block = BlockTeam<kThreads>;

__host__ __device__ constexpr int slices_of(std::int64_t n) {
  return static_cast<int>((n + kSlice - 1) / kSlice);
}

// What the row's slices have found together.
struct Found {
  Ranked best;
  Count all;            // weight, for top-p
  std::uint32_t bound;  // key below which no candidate lies
  bool draws;
};
struct Scratch {
  std::byte* base;
  std::int64_t n;

  __host__ __device__ std::size_t row_bytes() const {
    const std::size_t slices = static_cast<std::size_t>(slices_of(n));
    const std::size_t bytes =
        sizeof(Found) + static_cast<std::size_t>(n) * sizeof(Candidate) +
        slices * (kWarps * sizeof(Ranked) + sizeof(Count) + (1 + kSlice) * sizeof(std::int32_t));
    return (bytes + 15) / 16 * 16;
  }
};

struct Row {
  float* x;
  int n, slices;
  SampleChoice* choice;
  Candidate* kept;  // [n], ids rising
  Found* found;
  Ranked* maxima;              // [slices][kWarps]
  Count* sums;                 // [slices]
  std::int32_t *counts, *ids;  // [slices], [slices][kSlice]: candidates, ids rising
  std::int32_t* out;
};

__device__ inline Row row_of(float* logits, SampleChoice* choices, const Scratch& scratch,
                             std::int32_t* out) {
  const auto n = static_cast<int>(scratch.n);
  const std::int64_t at = blockIdx.y;
  Row r{};
  r.x = logits + at * n, r.n = n, r.slices = slices_of(n), r.choice = choices + at;
  r.kept = reinterpret_cast<Candidate*>(scratch.base + at * scratch.row_bytes());
  r.found = reinterpret_cast<Found*>(r.kept + n);
  r.maxima = reinterpret_cast<Ranked*>(r.found + 1);
  r.sums = r.maxima + r.slices * kWarps;
  r.counts = reinterpret_cast<std::int32_t*>(r.sums + r.slices);
  r.ids = r.counts + r.slices;
  r.out = out + at;
  return r;
}

// The lane's j-th element of its warp's part.
__device__ __forceinline__ int element(int j) {
  return blockIdx.x * kSlice + warp_id() * kPart + j * kWarp + lane_id();
}
constexpr int kEach = kPart / kWarp;

// True in the block that is the last of the row's to come here; it sees what the others wrote.
__device__ inline bool last_of(const Row& row) {
  __shared__ bool last;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    const auto slices = static_cast<unsigned>(row.slices);
    last = atomicAdd(&row.choice->arrived, 1u) % slices == slices - 1;
  }
  __syncthreads();
  __threadfence();
  return last;
}

}  // namespace dream_r::cuda::sampling
