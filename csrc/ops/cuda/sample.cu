// Sampling. A row of logits is cut into slices, a block each, and what they find is put together by
// the last of them to finish, so that one row of a large vocabulary keeps the whole GPU busy:
//   scale    penalties, temperature, the largest logit. A greedy row ends here.
//   weigh    the slices' weights, among which a row without filters draws. With top-k the
//            candidates instead, among which it draws: nothing below the k-th largest of the warps'
//            maxima can be kept.
//   gather   with top-p alone the candidates: nothing can be kept that is too light by the bound of
//            ops/sample.cc.
// Weights are integers, so no result depends on how a row is cut.
#include "ops/cuda/kernels.h"
#include "ops/cuda/launch.cuh"
#include "ops/cuda/sample_row.cuh"

namespace dream_r::cuda {
namespace {

using namespace sampling;
constexpr int kFew = 2048;  // candidates of one warp

// Of the slice's ids; each once, however often the list names it.
__device__ void penalise(const Row& row, const SampleChoice& c) {
  __shared__ std::uint32_t seen[kSlice / 32];
  const int begin = blockIdx.x * kSlice;
  const auto here = [&](int id) { return id >= begin && id < begin + kSlice; };
  for (int i = threadIdx.x; i < kSlice / 32; i += kThreads) seen[i] = 0;
  __syncthreads();
  for (int i = threadIdx.x; i < c.seen_count; i += kThreads) {
    const int id = c.seen[i];
    if (!here(id)) continue;
    const std::uint32_t bit = 1u << id % 32;
    if (atomicOr(&seen[(id - begin) / 32], bit) & bit) continue;
    const float x = row.x[id];
    row.x[id] = (x > 0 ? x / c.repetition_penalty : x * c.repetition_penalty) - c.presence_penalty;
  }
  __syncthreads();
  for (int i = threadIdx.x; i < c.suppressed_count; i += kThreads)
    if (here(c.suppressed[i])) row.x[c.suppressed[i]] = -INFINITY;
  __syncthreads();
}

__device__ bool has_top_k(const Row& row, const SampleChoice& c) {
  return c.top_k > 0 && c.top_k < row.n;
}

__global__ void __launch_bounds__(kThreads)
    scale_kernel(float* logits, SampleChoice* choices, const Scratch scratch, std::int32_t* out) {
  follow();
  const Row row = row_of(logits, choices, scratch, out);
  const SampleChoice c = *row.choice;
  penalise(row, c);
  Ranked best = 0;
  for (int j = 0; j < kEach; ++j) {
    const int i = element(j);
    if (i >= row.n) break;
    float x = usable(row.x[i]);
    if (c.temperature > 0.0f) row.x[i] = x /= c.temperature;
    best = max(best, ranked(x, i));
  }
  best = warp_reduce(best, Larger{});
  if (lane_id() == 0) row.maxima[blockIdx.x * kWarps + warp_id()] = best;
  if (!last_of(row)) return;
  const int parts = row.slices * kWarps;
  best = 0;
  for (int i = threadIdx.x; i < parts; i += kThreads) best = max(best, row.maxima[i]);
  best = block_reduce(best, Ranked{0}, Larger{});
  const bool draws = c.temperature > 0.0f && best >> 32 > rising(-INFINITY);
  std::uint32_t bound = 0;
  if (draws && has_top_k(row, c))
    bound = largest_key(Block{}, parts, static_cast<Count>(c.top_k),
                        [&](int i, std::uint32_t v) { return Count{row.maxima[i] >> 32 >= v}; });
  if (threadIdx.x > 0) return;
  *row.found = {best, 0, bound, draws};
  if (!draws) *row.out = id_of(best);
}

// The slice's logits whose key is at least `bound` become candidates.
__device__ void collect(const Row& row, std::uint32_t bound) {
  const auto wanted = [&](int i) { return i < row.n && rising(row.x[i]) >= bound; };
  int mine = 0;
  for (int j = 0; j < kEach; ++j) mine += __popc(__ballot_sync(kAllLanes, wanted(element(j))));
  auto to = static_cast<int>(Block{}.before_warp(static_cast<Count>(mine)));
  if (threadIdx.x == kThreads - kWarp) row.counts[blockIdx.x] = to + mine;
  std::int32_t* const ids = row.ids + blockIdx.x * kSlice;
  for (int j = 0; j < kEach; ++j) {
    const bool take = wanted(element(j));
    const unsigned taken = __ballot_sync(kAllLanes, take);
    if (take) ids[to + __popc(taken & ((1u << lane_id()) - 1u))] = element(j);
    to += __popc(taken);
  }
}

// Puts the slices' candidates in a row; returns how many there are.
__device__ int line_up(const Row& row, float max) {
  const Part part = part_of_warp(Block{}, row.slices);
  int mine = 0;
  for (int s = part.begin + lane_id(); s < part.end; s += kWarp) mine += row.counts[s];
  mine = static_cast<int>(WarpTeam{}.sum(static_cast<Count>(mine)));
  auto to = static_cast<int>(Block{}.before_warp(static_cast<Count>(mine)));
  for (int first = part.begin; first < part.end; first += kWarp) {
    const int own = first + lane_id() < part.end ? row.counts[first + lane_id()] : 0;
    for (unsigned some = __ballot_sync(kAllLanes, own > 0); some; some &= some - 1) {
      const int lane = __ffs(static_cast<int>(some)) - 1, count = __shfl_sync(kAllLanes, own, lane);
      for (int i = lane_id(); i < count; i += kWarp) {
        const int id = row.ids[(first + lane) * kSlice + i];
        row.kept[to + i] = {weight_of(row.x[id], max), rising(row.x[id]), id};
      }
      to += count;
    }
  }
  const auto all = Block{}.sum(lane_id() == 0 ? static_cast<Count>(mine) : 0);
  __syncthreads();
  return static_cast<int>(all);
}

__device__ void draw_candidate(const Row& row, const SampleChoice& c, const Found& found,
                               float max) {
  const int count = line_up(row, max);
  const bool top_k = has_top_k(row, c);
  int id = 0;
  if (count > kFew)
    id = choose(Block{}, c, row.kept, count, top_k, found.all);
  else if (warp_id() == 0)
    id = choose(WarpTeam{}, c, row.kept, count, top_k, found.all);
  if (threadIdx.x == 0) *row.out = id;
}

// What top-p cannot keep: all n of them together weigh no more than what it leaves out.
__device__ float never_kept(float p, Count all, int n, float max) {
  const double each = (1.0 - static_cast<double>(p)) * static_cast<double>(all) / kOne / n;
  return max + static_cast<float>(log(each)) - 1e-3f;
}

// All slices' weights are there: a draw among all logits, or the bound that top-p waits for.
template <class F>
__device__ void use_sums(const Row& row, const SampleChoice& c, float max, F weight) {
  const auto sum = [&](int i) { return row.sums[i]; };
  const Count all = sum_of(Block{}, row.slices, sum);
  if (c.top_p < 1.0f) {
    if (threadIdx.x > 0) return;
    row.found->all = all;
    row.found->bound = rising(never_kept(c.top_p, all, row.n, max));
    return;
  }
  const Count target = target_of(c.uniform, all);
  const int slice = locate(Block{}, row.slices, target, sum), begin = slice * kSlice;
  const Count before = sum_of(Block{}, slice, sum);
  const int at = locate(Block{}, min(kSlice, row.n - begin), target - before,
                        [&](int i) { return weight(begin + i); });
  if (threadIdx.x == 0) *row.out = begin + at;
}

__global__ void __launch_bounds__(kThreads)
    weigh_kernel(float* logits, SampleChoice* choices, const Scratch scratch, std::int32_t* out) {
  follow();
  const Row row = row_of(logits, choices, scratch, out);
  const SampleChoice c = *row.choice;
  const Found found = *row.found;
  if (!found.draws) return;
  const float max = row.x[id_of(found.best)];
  if (has_top_k(row, c)) {
    collect(row, found.bound);
    if (last_of(row)) draw_candidate(row, c, found, max);
    return;
  }
  const float min_p = c.top_p < 1.0f ? 0.0f : c.min_p;  // it comes after top-p
  const auto weight = [&](int i) {
    const Count w = weight_of(row.x[i], max);
    return likely(w, min_p) ? w : Count{0};
  };
  Count mine = 0;
  for (int j = 0; j < kEach; ++j)
    if (element(j) < row.n) mine += weight(element(j));
  mine = block_sum(mine);
  if (threadIdx.x == 0) row.sums[blockIdx.x] = mine;
  if (last_of(row)) use_sums(row, c, max, weight);
}

__global__ void __launch_bounds__(kThreads)
    gather_kernel(float* logits, SampleChoice* choices, const Scratch scratch, std::int32_t* out) {
  follow();
  const Row row = row_of(logits, choices, scratch, out);
  const SampleChoice c = *row.choice;
  const Found found = *row.found;
  if (!found.draws || has_top_k(row, c) || c.top_p >= 1.0f) return;
  collect(row, found.bound);
  if (last_of(row)) draw_candidate(row, c, found, row.x[id_of(found.best)]);
}

static_assert(sizeof(Candidate) == 16 && sizeof(Found) % 8 == 0);

}  // namespace

SampleStages sample_stages(const SampleChoice& c, std::int64_t n) {
  if (c.temperature <= 0.0f) return SampleStages::scale;
  return c.top_p < 1.0f && (c.top_k <= 0 || c.top_k >= n) ? SampleStages::gather
                                                          : SampleStages::weigh;
}

std::size_t sample_scratch(std::int64_t rows, std::int64_t n) {
  return static_cast<std::size_t>(rows) * Scratch{nullptr, n}.row_bytes();
}

void sample(float* logits, std::int64_t rows, std::int64_t n, SampleChoice* choices,
            SampleStages last, void* scratch, std::int32_t* out, cudaStream_t stream) {
  if (rows == 0) return;
  const dim3 grid(static_cast<unsigned>(slices_of(n)), static_cast<unsigned>(rows));
  const Scratch to{static_cast<std::byte*>(scratch), n};
  const auto run = [&](auto kernel) {
    launch(kernel, {grid, kThreads, 0, stream}, logits, choices, to, out);
  };
  run(scale_kernel);
  if (last >= SampleStages::weigh) run(weigh_kernel);
  if (last >= SampleStages::gather) run(gather_kernel);
}

}  // namespace dream_r::cuda
