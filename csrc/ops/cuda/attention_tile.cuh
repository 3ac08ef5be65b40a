#pragma once
// Sixteen query rows a warp against tiles of keys on the tensor cores (mma m16n8k16; bf16 or f16,
// T below, in, f32 out), with the softmax kept online. Of a 16 x 8 result tile a lane holds
// elements 0, 1 of row lane / 4 and 2, 3 of row lane / 4 + 8, in columns 2 * (lane % 4) and the
// next: "half" below says which of its two rows.
#include <cuda_runtime.h>

#include <cmath>
#include <cstdint>
#include <cstring>

#include "ops/cuda/element.cuh"
#include "ops/cuda/ptx.cuh"
#include "ops/cuda/reduce.cuh"

namespace dream_r::cuda {

constexpr int kTileRows = 16;
using Fragment = std::uint32_t[4];

// A pair as a sum of kPlanes pairs of T, each the rounding of what the ones before it left. bf16: 8
// bits of the significand a plane, so three of them hold an f32 exactly.
template <class T, int kPlanes>
__device__ void split_pair(float low, float high, std::uint32_t (&planes)[kPlanes]) {
#pragma unroll
  for (int p = 0; p < kPlanes; ++p) {
    planes[p] = Element<T>::pair(low, high);
    const float2 kept = Element<T>::widen_pair(planes[p]);
    low -= kept.x;
    high -= kept.y;
  }
}

// d += a b with the first (0) or second (1) of the right factors that one ldmatrix_x4 brought.
template <class T>
__device__ inline void multiply(float (&d)[4], const Fragment& a, const Fragment& b, int which) {
  const std::uint32_t factor[2] = {b[2 * which], b[2 * which + 1]};
  Element<T>::multiply(d, a, factor);
}

// Query fragments of 16 rows, straight from memory. at(half): the lane's row, null if there is
// none. Elements from `dim` on are zero.
template <class T, int kDim, int kPlanes, class At>
__device__ void load_queries(At&& at, int dim, Fragment (&q)[kPlanes][kDim / 16]) {
  const int column = 2 * (threadIdx.x % 4);
#pragma unroll
  for (int step = 0; step < kDim / 16; ++step)
#pragma unroll
    for (int part = 0; part < 4; ++part) {
      const float* row = at(part % 2);
      const int d = step * 16 + part / 2 * 8 + column;
      float2 pair{0.0f, 0.0f};
      if (row != nullptr && d < dim) pair = *reinterpret_cast<const float2*>(row + d);
      std::uint32_t planes[kPlanes];
      split_pair<T>(pair.x, pair.y, planes);
#pragma unroll
      for (int p = 0; p < kPlanes; ++p) q[p][step][part] = planes[p];
    }
}

// Running softmax of a lane's two rows; sum counts the lane's own columns until total().
struct Softmax {
  float max[2] = {-INFINITY, -INFINITY};
  float sum[2] = {0.0f, 0.0f};

  // Scores -> exp2(score * scale - max), with what came before scaled to the new maximum.
  template <int kTiles, int kOut>
  __device__ void step(float (&s)[kTiles][4], float scale, float (&acc)[kOut][4]) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float top = -INFINITY;
#pragma unroll
      for (int t = 0; t < kTiles; ++t) top = fmaxf(top, fmaxf(s[t][2 * half], s[t][2 * half + 1]));
      top = fmaxf(top, __shfl_xor_sync(kAllLanes, top, 1));
      top = fmaxf(top, __shfl_xor_sync(kAllLanes, top, 2));
      const float before = max[half];
      max[half] = fmaxf(before, top * scale);
      // A row that has seen no key yet: any finite shift makes its exponentials 0.
      const float shift = max[half] == -INFINITY ? 0.0f : max[half];
      const float keep = exp2_fast(before - shift);
      sum[half] *= keep;
#pragma unroll
      for (int t = 0; t < kOut; ++t) {
        acc[t][2 * half] *= keep;
        acc[t][2 * half + 1] *= keep;
      }
#pragma unroll
      for (int t = 0; t < kTiles; ++t)
#pragma unroll
        for (int i = 2 * half; i < 2 * half + 2; ++i) {
          s[t][i] = exp2_fast(fmaf(s[t][i], scale, -shift));
          sum[half] += s[t][i];
        }
    }
  }

  __device__ float total(int half) const {
    float all = sum[half] + __shfl_xor_sync(kAllLanes, sum[half], 1);
    return all + __shfl_xor_sync(kAllLanes, all, 2);
  }
};

// Two neighbouring result tiles are, element for element, the fragment of a 16 x 16 left factor.
template <class T, int kPlanes>
__device__ void pack_weights(const float (&low)[4], const float (&high)[4],
                             Fragment (&p)[kPlanes]) {
#pragma unroll
  for (int part = 0; part < 4; ++part) {
    const float(&from)[4] = part < 2 ? low : high;
    std::uint32_t planes[kPlanes];
    split_pair<T>(from[part % 2 * 2], from[part % 2 * 2 + 1], planes);
#pragma unroll
    for (int i = 0; i < kPlanes; ++i) p[i][part] = planes[i];
  }
}

// Rows of values in shared memory, 16 bytes wider than they need be: eight rows of a fragment then
// lie in different banks.
template <int kDim>
constexpr int kPaddedRow = kDim + 8;

// acc += weights [16 x 16 keys] * values [16 keys][kPaddedRow].
template <int kDim, class T>
__device__ void add_values(const Fragment& p, const T* values, float (&acc)[kDim / 8][4]) {
  const int lane = threadIdx.x % 32;
  const T* at = values + lane % 16 * kPaddedRow<kDim> + lane / 16 * 8;
#pragma unroll
  for (int t = 0; t < kDim / 8; t += 2) {
    Fragment v;
    ldmatrix_x4_trans(v, at + t * 8);
    multiply<T>(acc[t], p, v, 0);
    multiply<T>(acc[t + 1], p, v, 1);
  }
}

}  // namespace dream_r::cuda
