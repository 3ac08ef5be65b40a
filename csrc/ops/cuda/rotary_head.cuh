#pragma once
// A head's norm and rotation, by one warp: its sum is the warp's and nothing passes through shared
// memory. Products and sums are rounded as written, so every kernel gives the same bits.
#include "ops/cuda/kernels.h"
#include "ops/cuda/reduce.cuh"

namespace dream_r::cuda {

__device__ __forceinline__ float* head_of(const RopeHeads& a, std::int64_t token, int head) {
  return a.qkv + (token * (a.q + 2 * a.kv) + head) * a.dim;
}

// put(i, x) for the lane's elements of query or key head `head`; both elements of a pair have been
// read by then.
template <class Put>
__device__ __forceinline__ void turn_head(const RopeHeads& a, std::int64_t token, int head,
                                          Put&& put) {
  const int lane = threadIdx.x % kWarp, half = a.dim / 2;
  const float* x = head_of(a, token, head);
  const float* norm = head < a.q ? a.q_norm : a.k_norm;
  float scale = 1.0f;
  if (norm) {
    float squares = 0;
    for (int i = lane; i < a.dim; i += kWarp) squares = __fmaf_rn(x[i], x[i], squares);
    squares = warp_reduce(squares, [](float p, float q) { return p + q; });
    scale = 1.0f / sqrtf(squares / static_cast<float>(a.dim) + a.eps);
  }
  for (int i = lane; i < half; i += kWarp) {
    const float g = norm ? norm[i] : 1.0f, h = norm ? norm[half + i] : 1.0f;
    const float first = x[i] * scale * g, second = x[half + i] * scale * h;
    const float c = a.cos[token * half + i], s = a.sin[token * half + i];
    put(i, __fmaf_rn(first, c, -__fmul_rn(second, s)));
    put(half + i, __fmaf_rn(second, c, __fmul_rn(first, s)));
  }
}

}  // namespace dream_r::cuda
