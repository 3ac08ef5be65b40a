#pragma once
// The filters over one row's candidates, and the draw from what they leave. They need an order of
// the logits but no sort: what a filter keeps is everything above a threshold, and a threshold is
// found bit by bit, 32 times the team asks whether enough lies at or above a trial.
#include "ops/cuda/kernels.h"
#include "ops/cuda/sample_team.cuh"

namespace dream_r::cuda {

constexpr float kOne = 0x1p42f;  // weight of the largest logit: 2^21 of them still fit a Count

__device__ __forceinline__ Count weight_of(float x, float max) {
  return static_cast<Count>(expf(x - max) * kOne);
}
// Whether min-p keeps a candidate of this weight.
__device__ __forceinline__ bool likely(Count weight, float min_p) {
  return static_cast<float>(weight) >= min_p * kOne;
}
// The weight at which a draw from `all` falls: less than that.
__device__ __forceinline__ Count target_of(float uniform, Count all) {
  const auto at = static_cast<Count>(static_cast<double>(uniform) * static_cast<double>(all));
  return min(at, all - 1);
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
    keep(team, kept, count,
         [&](const Candidate& candidate, int) { return likely(candidate.weight, c.min_p); });
  const Count left = sum_of(team, count, weight);
  return kept[locate(team, count, target_of(c.uniform, left), weight)].id;
}

}  // namespace dream_r::cuda
