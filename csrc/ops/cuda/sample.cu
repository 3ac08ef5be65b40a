// Sampling: one block a row of logits.
//
// The filters need an order of the logits but no sort. What they keep is everything above a
// threshold, and a threshold is found bit by bit: 32 times the team asks whether enough lies at or
// above a trial. So that this does not read the row 32 times, what cannot be kept is dropped
// before: with top-k everything below the k-th largest of the threads' own maxima, with top-p what
// is too light by the bound of ops/sample.cc. What is left is few as a rule, and one warp's work.
#include "ops/cuda/kernels.h"
#include "ops/cuda/launch.cuh"
#include "ops/cuda/order.cuh"
#include "ops/cuda/sample_team.cuh"

namespace dream_r::cuda {
namespace {

constexpr int kThreads = 1024;
constexpr int kFew = 2048;       // candidates of one warp
constexpr float kOne = 0x1p42f;  // weight of the largest logit: 2^21 of them still fit a Count
using Block = BlockTeam<kThreads>;

struct Row {
  float* x;
  int n;
  Candidate* kept;
  std::uint32_t* seen;  // a bit an id
};

__device__ __forceinline__ Count weight_of(float x, float max) {
  return static_cast<Count>(expf(x - max) * kOne);
}

__device__ void penalise(const Row& row, const SampleChoice& c) {
  if (c.repetition_penalty != 1.0f || c.presence_penalty != 0.0f) {
    for (int i = threadIdx.x; i < (row.n + 31) / 32; i += kThreads) row.seen[i] = 0;
    __syncthreads();
    for (int i = threadIdx.x; i < c.seen_count; i += kThreads) {
      const int id = c.seen[i];
      const std::uint32_t bit = 1u << id % 32;
      if (atomicOr(&row.seen[id / 32], bit) & bit) continue;
      const float x = row.x[id];
      row.x[id] =
          (x > 0 ? x / c.repetition_penalty : x * c.repetition_penalty) - c.presence_penalty;
    }
    __syncthreads();
  }
  for (int i = threadIdx.x; i < c.suppressed_count; i += kThreads)
    row.x[c.suppressed[i]] = -INFINITY;
  __syncthreads();
}

__device__ Ranked best_of(const Row& row) {
  Ranked best = 0;
  for (int i = threadIdx.x; i < row.n; i += kThreads) best = max(best, ranked(row.x[i], i));
  return block_reduce(best, Ranked{0}, Larger{});
}

// A key that at least k of the row's logits reach: the k-th largest of the threads' maxima.
__device__ std::uint32_t reached_by(const Row& row, int k) {
  __shared__ std::uint32_t largest[kThreads], bound;
  if (k > kThreads) return 0;
  std::uint32_t own = 0;
  for (int i = threadIdx.x; i < row.n; i += kThreads) own = max(own, rising(row.x[i]));
  largest[threadIdx.x] = own;
  __syncthreads();
  if (warp_id() == 0) {
    const std::uint32_t key =
        largest_key(WarpTeam{}, kThreads, static_cast<Count>(k),
                    [&](int i, std::uint32_t v) { return Count{largest[i] >= v}; });
    if (lane_id() == 0) bound = key;
  }
  __syncthreads();
  return bound;
}

// Everything whose key is at least `bound` becomes a candidate; returns how many.
__device__ int collect(const Row& row, std::uint32_t bound, float max) {
  const Part part = part_of_warp(Block{}, row.n);
  const auto wanted = [&](int i) { return i < part.end && rising(row.x[i]) >= bound; };
  int mine = 0;
  for (int i = part.begin; i < part.end; i += kWarp)
    mine += __popc(__ballot_sync(kAllLanes, wanted(i + lane_id())));
  auto to = static_cast<int>(Block{}.before_warp(static_cast<Count>(mine)));
  for (int first = part.begin; first < part.end; first += kWarp) {
    const int i = first + lane_id();
    const bool take = wanted(i);
    const unsigned taken = __ballot_sync(kAllLanes, take);
    if (take)
      row.kept[to + __popc(taken & ((1u << lane_id()) - 1u))] = {weight_of(row.x[i], max),
                                                                 rising(row.x[i]), i};
    to += __popc(taken);
  }
  return static_cast<int>(Block{}.sum(lane_id() == 0 ? static_cast<Count>(mine) : 0));
}

// Candidates that `stays` refuses lose their weight.
template <class Team, class F>
__device__ void keep(Team team, Candidate* kept, int count, F stays) {
  team.sync();
  for (int i = team.rank(); i < count; i += Team::kSize)
    if (!stays(kept[i], i)) kept[i].weight = 0;
  team.sync();
}

template <class Team>
__device__ void keep_top_k(Team team, Candidate* kept, int count, int k) {
  const std::uint32_t kth =
      largest_key(team, count, static_cast<Count>(k),
                  [&](int i, std::uint32_t v) { return Count{kept[i].key >= v}; });
  keep(team, kept, count, [&](const Candidate& c, int) { return c.key >= kth; });
}

// Of all the weight before this filter, `all`, the largest logits that together reach top_p of it:
// everything above an edge, and of those on it the first.
template <class Team>
__device__ void keep_top_p(Team team, Candidate* kept, int count, float p, Count all) {
  const auto enough =
      max(Count{1}, static_cast<Count>(ceil(static_cast<double>(p) * static_cast<double>(all))));
  const std::uint32_t edge = largest_key(team, count, enough, [&](int i, std::uint32_t v) {
    return kept[i].key >= v ? kept[i].weight : Count{0};
  });
  const Count above =
      sum_of(team, count, [&](int i) { return kept[i].key > edge ? kept[i].weight : Count{0}; });
  const int last = locate(team, count, enough - above - 1,
                          [&](int i) { return kept[i].key == edge ? kept[i].weight : Count{0}; });
  keep(team, kept, count,
       [&](const Candidate& c, int i) { return c.key > edge || (c.key == edge && i <= last); });
}

// Filters the candidates and draws one. `all`: the row's weight, which top-p without top-k asks
// for.
template <class Team>
__device__ int choose(Team team, const SampleChoice& c, Candidate* kept, int count, bool top_k,
                      Count all) {
  const auto weight = [&](int i) { return kept[i].weight; };
  if (top_k) keep_top_k(team, kept, count, c.top_k);
  if (c.top_p < 1.0f)
    keep_top_p(team, kept, count, c.top_p, top_k ? sum_of(team, count, weight) : all);
  if (c.min_p > 0.0f)
    keep(team, kept, count, [&](const Candidate& candidate, int) {
      return static_cast<float>(candidate.weight) >= c.min_p * kOne;
    });
  const Count left = sum_of(team, count, weight);
  const auto target =
      static_cast<Count>(static_cast<double>(c.uniform) * static_cast<double>(left));
  return kept[locate(team, count, min(target, left - 1), weight)].id;
}

// What top-p cannot keep: all n of them together weigh no more than what it leaves out.
__device__ float never_kept(float p, Count all, int n, float max) {
  const double each = (1.0 - static_cast<double>(p)) * static_cast<double>(all) / kOne / n;
  return max + static_cast<float>(log(each)) - 1e-3f;
}

// The token, of all threads or of the first warp's.
__device__ int draw(const Row& row, const SampleChoice& c, float max) {
  const bool top_k = c.top_k > 0 && c.top_k < row.n;
  Count all = 0;
  std::uint32_t bound = 0;
  if (top_k) {
    bound = reached_by(row, c.top_k);
  } else if (c.top_p < 1.0f) {
    all = sum_of(Block{}, row.n, [&](int i) { return weight_of(row.x[i], max); });
    bound = rising(never_kept(c.top_p, all, row.n, max));
  }
  const int count = collect(row, bound, max);
  __syncthreads();
  if (count > kFew) return choose(Block{}, c, row.kept, count, top_k, all);
  return warp_id() == 0 ? choose(WarpTeam{}, c, row.kept, count, top_k, all) : 0;
}

__global__ void __launch_bounds__(kThreads)
    sample_kernel(float* logits, int n, const SampleChoice* choices, Candidate* kept,
                  std::uint32_t* seen, std::int32_t* out) {
  const std::int64_t at = blockIdx.x;
  const Row row{logits + at * n, n, kept + at * n, seen + at * ((n + 31) / 32)};
  const SampleChoice c = choices[at];
  penalise(row, c);
  int id = id_of(best_of(row));
  const float best = usable(row.x[id]);
  if (c.temperature > 0.0f && best > -INFINITY) {
    __syncthreads();  // all have read the best one
    for (int i = threadIdx.x; i < n; i += kThreads) row.x[i] = usable(row.x[i]) / c.temperature;
    __syncthreads();
    id = draw(row, c, best / c.temperature);
  }
  if (threadIdx.x == 0) out[at] = id;
}

constexpr std::size_t kCandidateBytes = sizeof(Candidate);
static_assert(kCandidateBytes == 16);

}  // namespace

std::size_t sample_scratch(std::int64_t rows, std::int64_t n) {
  return static_cast<std::size_t>(rows) * (static_cast<std::size_t>(n) * kCandidateBytes +
                                           static_cast<std::size_t>(n + 31) / 32 * 4);
}

void sample(float* logits, std::int64_t rows, std::int64_t n, const SampleChoice* choices,
            void* scratch, std::int32_t* out, cudaStream_t stream) {
  if (rows == 0) return;
  auto* kept = static_cast<Candidate*>(scratch);
  launch(sample_kernel, {static_cast<unsigned>(rows), kThreads, 0, stream}, logits,
         static_cast<int>(n), choices, kept, reinterpret_cast<std::uint32_t*>(kept + rows * n),
         out);
}

}  // namespace dream_r::cuda
