// Routing of tokens to experts: choice, sorting, weighted sum. One warp a token chooses, one warp
// an expert finds its pairs, one thread an element adds up: every sum has one order, whatever else
// runs.
#include "ops/cuda/kernels.h"
#include "ops/cuda/launch.cuh"
#include "ops/cuda/order.cuh"
#include "ops/cuda/reduce.cuh"

namespace dream_r::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarpsOfBlock = 4;

// A token's next choice is the largest below the one before it.
__device__ Ranked next_choice(const float* logits, int experts, Ranked below, int lane) {
  Ranked best = 0;
  for (int e = lane; e < experts; e += kWarp) {
    const Ranked r = ranked(logits[e], e);
    if (r < below && r > best) best = r;
  }
  return warp_reduce(best, Larger{});
}

__global__ void route_kernel(const float* logits, std::int64_t rows, int experts, int k,
                             bool renormalise, std::int32_t* expert, float* weight) {
  follow();
  const std::int64_t t =
      static_cast<std::int64_t>(blockIdx.x) * kWarpsOfBlock + threadIdx.x / kWarp;
  if (t >= rows) return;  // whole warps
  const int lane = threadIdx.x % kWarp;
  logits += t * experts, expert += t * k, weight += t * k;
  Ranked last = ~Ranked{0};
  float most = 0, sum = 0;
  for (int j = 0; j < k; ++j) {
    last = next_choice(logits, experts, last, lane);
    const int e = id_of(last);
    const float x = usable(logits[e]);
    if (j == 0) most = x;
    const float part = expf(x - most);
    sum += part;
    if (lane == 0) expert[j] = e, weight[j] = part;
  }
  if (!renormalise) {
    sum = 0;
    for (int e = lane; e < experts; e += kWarp) sum += expf(usable(logits[e]) - most);
    sum = warp_reduce(sum, [](float a, float b) { return a + b; });
  }
  if (lane == 0)
    for (int j = 0; j < k; ++j) weight[j] /= sum;
}

// Pairs of lower experts are counted first: they say where this expert's begin.
__global__ void group_kernel(const std::int32_t* expert, int pairs, int k, int experts,
                             std::int32_t* token, std::int32_t* place, std::int32_t* begin) {
  follow();
  const int e =
      static_cast<int>(blockIdx.x) * kWarpsOfBlock + static_cast<int>(threadIdx.x) / kWarp;
  if (e > experts) return;  // whole warps; `experts` itself only counts all pairs
  const int lane = threadIdx.x % kWarp;
  int below = 0;
  for (int i = lane; i < pairs; i += kWarp) below += expert[i] < e;
  int to = warp_reduce(below, [](int a, int b) { return a + b; });
  if (lane == 0) begin[e] = to;
  for (int first = 0; first < pairs; first += kWarp) {
    const int i = first + lane;
    const bool mine = i < pairs && expert[i] == e;
    const unsigned all = __ballot_sync(kAllLanes, mine);
    if (mine) {
      const int at = to + __popc(all & ((1u << lane) - 1u));
      place[i] = at;
      token[at] = i / k;
    }
    to += __popc(all);
  }
}

__global__ void combine_kernel(const float* y, const std::int32_t* place, const float* weight,
                               std::int64_t h, int k, float* out) {
  follow();
  const std::int64_t i = std::int64_t{blockIdx.y} * kThreads + threadIdx.x;
  if (i >= h) return;
  place += static_cast<std::int64_t>(blockIdx.x) * k;
  weight += static_cast<std::int64_t>(blockIdx.x) * k;
  float sum = 0;
#pragma unroll 8
  for (int j = 0; j < k; ++j) sum += weight[j] * y[place[j] * h + i];
  out[blockIdx.x * h + i] = sum;
}

Launch one_warp_each(std::int64_t n, cudaStream_t stream) {
  return {static_cast<unsigned>((n + kWarpsOfBlock - 1) / kWarpsOfBlock), kWarpsOfBlock * kWarp, 0,
          stream};
}

}  // namespace

void moe_route(const float* logits, std::int64_t rows, std::int64_t experts, std::int64_t k,
               bool renormalise, std::int32_t* expert, float* weight, cudaStream_t stream) {
  if (rows > 0)
    launch(route_kernel, one_warp_each(rows, stream), logits, rows, static_cast<int>(experts),
           static_cast<int>(k), renormalise, expert, weight);
}

void moe_group(const std::int32_t* expert, std::int64_t pairs, std::int64_t k, std::int64_t experts,
               std::int32_t* token, std::int32_t* place, std::int32_t* begin, cudaStream_t stream) {
  launch(group_kernel, one_warp_each(experts + 1, stream), expert, static_cast<int>(pairs),
         static_cast<int>(k), static_cast<int>(experts), token, place, begin);
}

void moe_combine(const float* y, const std::int32_t* place, const float* weight, std::int64_t rows,
                 std::int64_t h, std::int64_t k, float* out, cudaStream_t stream) {
  if (rows == 0 || h == 0) return;
  const dim3 grid(static_cast<unsigned>(rows),
                  static_cast<unsigned>((h + kThreads - 1) / kThreads));
  launch(combine_kernel, {grid, kThreads, 0, stream}, y, place, weight, h, static_cast<int>(k),
         out);
}

}  // namespace dream_r::cuda
