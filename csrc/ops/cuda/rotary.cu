// Rotary embeddings. The table: one thread a (token, pair). The rotation: one warp a head.
#include "ops/cuda/kernels.h"
#include "ops/cuda/launch.cuh"
#include "ops/cuda/rotary_head.cuh"

namespace dream_r::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kHeadsOfBlock = kThreads / kWarp;

// The angle is a product in f32, as the reference implementations round it; its sine and cosine in
// f64, whose reduction needs no table of pi and so no local memory.
__global__ void mrope_table_kernel(const std::int32_t* positions, MropePairs pairs,
                                   std::int64_t total, float* cos, float* sin) {
  follow();
  const std::int64_t at = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (at >= total) return;
  const std::int64_t t = at / pairs.count;
  const int i = static_cast<int>(at % pairs.count);
  const float angle = static_cast<float>(positions[t * 3 + pairs.axis[i]]) * pairs.inv_freq[i];
  constexpr double kInversePi = 0.31830988618379067154;
  double s, c;
  sincospi(static_cast<double>(angle) * kInversePi, &s, &c);
  cos[at] = static_cast<float>(c);
  sin[at] = static_cast<float>(s);
}

__global__ void rope_kernel(RopeHeads a, std::int64_t heads) {
  follow();
  const std::int64_t at =
      static_cast<std::int64_t>(blockIdx.x) * kHeadsOfBlock + threadIdx.x / kWarp;
  if (at >= heads) return;  // whole warps
  const int turned = a.q + a.kv, head = static_cast<int>(at % turned);
  float* const x = head_of(a, at / turned, head);
  turn_head(a, at / turned, head, [&](int i, float v) { x[i] = v; });
}

}  // namespace

void mrope_table(const std::int32_t* positions, const MropePairs& pairs, std::int64_t rows,
                 float* cos, float* sin, cudaStream_t stream) {
  const std::int64_t total = rows * pairs.count;
  if (total == 0) return;
  launch(mrope_table_kernel,
         {static_cast<unsigned>((total + kThreads - 1) / kThreads), kThreads, 0, stream}, positions,
         pairs, total, cos, sin);
}

void rope(const RopeHeads& a, std::int64_t rows, cudaStream_t stream) {
  const std::int64_t heads = rows * (a.q + a.kv);
  if (heads == 0) return;
  launch(rope_kernel,
         {static_cast<unsigned>((heads + kHeadsOfBlock - 1) / kHeadsOfBlock), kThreads, 0, stream},
         a, heads);
}

}  // namespace dream_r::cuda
