// Products with f32 weights, in f32: routers, tests, small models. Plain sums, no tensor cores.
//
// A block has one panel of 16 output rows and up to four rows of x. Four neighbouring threads take
// a line of the panel (four rows each, 16 bytes), 64 such lines at a time go along k together, so
// that a router's few panels still have enough loads under way; the 64 sums of an element are added
// in order, whatever the rows beside it.
#include <algorithm>
#include <cstdint>

#include "ops/cuda/launch.cuh"
#include "ops/cuda/linear_source.cuh"

namespace dream_r::cuda {
namespace {

constexpr int kPanel = 16, kLanes = 64, kRows = 4, kThreads = kLanes * kPanel / 4;

// The thread's share: rows 4 * quad .. + 3 of the panel, elements lane, lane + 64, ... of k.
__device__ void add_products(const float4* panel, const float* x, int count, int k, int lane,
                             int quad, float4 (&sum)[kRows]) {
#pragma unroll 8
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

// The panel against the rows [first, first + count) of x.
__device__ void multiply_panel(const float* w, const float* x, const float* bias, int first,
                               int count, int n, int k, float* out) {
  __shared__ float4 part[kLanes][kRows][kPanel / 4];
  const int lane = threadIdx.x / 4, quad = threadIdx.x % 4;
  const float* const panel = w + std::int64_t{blockIdx.x} * k * kPanel;
  float4 sum[kRows] = {};
  add_products(reinterpret_cast<const float4*>(panel), x + std::int64_t{first} * k, count, k, lane,
               quad, sum);
  __syncthreads();  // the sums of the rows before are read
#pragma unroll
  for (int r = 0; r < kRows; ++r) part[lane][r][quad] = sum[r];
  __syncthreads();
  const int row = threadIdx.x / kPanel, j = blockIdx.x * kPanel + threadIdx.x % kPanel;
  if (row >= count || j >= n) return;
  const auto* from = reinterpret_cast<const float*>(part) + threadIdx.x;
  float v = *from;
  for (int i = 1; i < kLanes; ++i) v += from[i * kRows * kPanel];
  out[std::int64_t{first + row} * n + j] = bias ? v + bias[j] : v;
}

// A router's few panels are few blocks, each of which would wait for memory again and again.
__device__ void prefetch_panel(const OneWeight& w, int k) {
  constexpr int kMostBytes = 512 << 10, kLine = 128;
  const int bytes = k * kPanel * 4;
  const auto* const panel = static_cast<const char*>(w.weight) + std::int64_t{blockIdx.x} * bytes;
  if (blockIdx.y == 0 && bytes <= kMostBytes)
    for (int i = threadIdx.x * kLine; i < bytes; i += kThreads * kLine) prefetch(panel + i);
}
__device__ void prefetch_panel(const Experts&, int) {}  // which one is not known yet

template <class Source>
__global__ void __launch_bounds__(kThreads)
    linear_f32_kernel(const __grid_constant__ Source source, const float* x, const float* bias,
                      int n, int k, float* out) {
  prefetch_panel(source, k);
  follow();
  const Task task = source.task(blockIdx.y, kRows);
  for (int first = task.begin; first < task.end; first += kRows)
    multiply_panel(static_cast<const float*>(task.weight), x, bias, first,
                   min(kRows, task.end - first), n, k, out);
}

template <class Source>
void run(const Source& source, unsigned slots, const float* x, const float* bias, std::int64_t n,
         std::int64_t k, float* out, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>((n + kPanel - 1) / kPanel), slots);
  launch(linear_f32_kernel<Source>, {grid, kThreads, 0, stream}, source, x, bias,
         static_cast<int>(n), static_cast<int>(k), out);
}

}  // namespace

void linear_f32(const LinearProblem& p, cudaStream_t stream) {
  run(OneWeight{p.weight, static_cast<int>(p.rows)},
      static_cast<unsigned>((p.rows + kRows - 1) / kRows), p.x, p.bias, p.n, p.k, p.out, stream);
}

void grouped_linear_f32(const GroupedProblem& p, cudaStream_t stream) {
  run(experts_of(p), static_cast<unsigned>(std::min(p.rows, p.experts)), p.x, nullptr, p.n, p.k,
      p.out, stream);
}

}  // namespace dream_r::cuda
