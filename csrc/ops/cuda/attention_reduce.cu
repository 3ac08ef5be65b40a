// Merges what the splits of a row's keys left in scratch: out = sum_s w_s acc_s / sum_s w_s sum_s
// with w_s = 2^(max_s - max). One warp a (token, query head); few bytes, all from the second-level
// cache, so what counts is that its loads do not wait for one another.
#include <cuda_runtime.h>

#include "ops/cuda/attention_rows.cuh"
#include "ops/cuda/launch.cuh"
#include "ops/cuda/ptx.cuh"
#include "ops/cuda/reduce.cuh"

namespace dream_r::cuda {
namespace {

constexpr int kWarps = 4;

__global__ void __launch_bounds__(kWarps * 32) reduce_kernel(const AttentionArgs a) {
  follow();
  const ops::AttentionRow row = a.rows[blockIdx.z];
  const int lane = threadIdx.x % 32, head = blockIdx.x * kWarps + threadIdx.x / 32;
  if (static_cast<int>(blockIdx.y) >= row.q_len || head >= a.q_heads) return;
  const int token = row.q_begin + static_cast<int>(blockIdx.y);
  const Partial first = partial_of(a, 0, token, head);
  const std::int64_t stride = std::int64_t{a.tokens} * a.q_heads;  // between splits

  float max = -INFINITY;
  for (int s = lane; s < a.splits; s += 32) max = fmaxf(max, first.stat[s * stride].x);
  max = warp_reduce(max, Max{});
  const int d = lane * 4;
  const float* from = first.acc + (d < a.dim ? d : 0);
  float sum = 0.0f;
  float4 acc{0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll 4
  for (int s = 0; s < a.splits; ++s) {
    const float2 stat = first.stat[s * stride];
    const float4 v = *reinterpret_cast<const float4*>(from + s * stride * a.dim);
    const float weight = exp2_fast(stat.x - max);
    sum += weight * stat.y;
    acc = {acc.x + weight * v.x, acc.y + weight * v.y, acc.z + weight * v.z, acc.w + weight * v.w};
  }
  float* out = a.out + (std::int64_t{token} * a.q_heads + head) * a.dim;
  if (d < a.dim) *reinterpret_cast<float4*>(out + d) = scaled(acc, 1.0f / sum);
}

}  // namespace

void attention_reduce(const AttentionBatch& b, const AttentionPlan& plan, float* scratch,
                      cudaStream_t stream) {
  launch(
      reduce_kernel,
      {dim3((b.heads.q + kWarps - 1) / kWarps, b.max_q_len, b.count), dim3(kWarps * 32), 0, stream},
      attention_args(b, plan.splits, scratch));
}

}  // namespace dream_r::cuda
