// Products with f32 weights, in f32: routers, tests, small models. Plain sums, no tensor cores.
//
// A block has one panel of 16 output rows and up to four rows of x. Four neighbouring threads take
// a line of the panel (four rows each, 16 bytes), 64 such lines at a time go along k together, so
// that a router's few panels still have enough loads under way; the 64 sums of an element are added
// in order, whatever the rows beside it.
#include <cstdint>

#include "ops/cuda/launch.cuh"
#include "ops/cuda/linear.h"
#include "ops/cuda/ptx.cuh"

namespace dream_r::cuda {
namespace {

constexpr int kPanel = 16, kLanes = 64, kRows = 4, kThreads = kLanes * kPanel / 4;

// The thread's share: rows 4 * quad .. + 3 of the panel, elements lane, lane + 64, ... of k.
__device__ void add_products(const float4* panel, const float* x, int count, int k, int lane,
                             int quad, float4 (&sum)[kRows]) {
#pragma unroll 4
  for (int i = lane; i < k; i += kLanes) {
    const float4 w = panel[std::int64_t{i} * (kPanel / 4) + quad];
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const float v = r < count ? x[std::int64_t{r} * k + i] : 0.0f;
      sum[r] = {__fmaf_rn(w.x, v, sum[r].x), __fmaf_rn(w.y, v, sum[r].y),
                __fmaf_rn(w.z, v, sum[r].z), __fmaf_rn(w.w, v, sum[r].w)};
    }
  }
}

__global__ void __launch_bounds__(kThreads)
    linear_f32_kernel(const float* x, const float* w, const float* bias, int rows, int n, int k,
                      float* out) {
  __shared__ float4 part[kLanes][kRows][kPanel / 4];
  wait_for_previous_kernel();
  const int lane = threadIdx.x / 4, quad = threadIdx.x % 4;
  const int first = blockIdx.y * kRows, count = min(kRows, rows - first);
  const float* const panel = w + std::int64_t{blockIdx.x} * k * kPanel;
  float4 sum[kRows] = {};
  add_products(reinterpret_cast<const float4*>(panel), x + std::int64_t{first} * k, count, k, lane,
               quad, sum);
#pragma unroll
  for (int r = 0; r < kRows; ++r) part[lane][r][quad] = sum[r];
  let_next_kernel_start();
  __syncthreads();
  const int row = threadIdx.x / kPanel, j = blockIdx.x * kPanel + threadIdx.x % kPanel;
  if (row >= count || j >= n) return;
  const auto* from = reinterpret_cast<const float*>(part) + threadIdx.x;
  float v = *from;
  for (int i = 1; i < kLanes; ++i) v += from[i * kRows * kPanel];
  out[std::int64_t{first + row} * n + j] = bias ? v + bias[j] : v;
}

}  // namespace

void linear_f32(const LinearProblem& p, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>((p.n + kPanel - 1) / kPanel),
                  static_cast<unsigned>((p.rows + kRows - 1) / kRows));
  launch(linear_f32_kernel, {grid, kThreads, 0, stream, true}, p.x,
         static_cast<const float*>(p.weight), p.bias, static_cast<int>(p.rows),
         static_cast<int>(p.n), static_cast<int>(p.k), p.out);
}

}  // namespace dream_r::cuda
