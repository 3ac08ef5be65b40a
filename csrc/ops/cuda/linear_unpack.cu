// Plain bf16 or f16 matrices for the library: rows of a packed weight, and x.
#include "ops/cuda/launch.cuh"
#include "ops/cuda/linear.h"
#include "ops/cuda/linear_weights.cuh"

namespace dream_r::cuda {
namespace {

constexpr int kThreads = 256, kRun = 8;  // elements of k a thread, 16 bytes

// Eight elements of a row: (q - z) * s, rounded.
__device__ uint4 eight_of_w4(const std::uint32_t* row, int k, int group) {
  const int head_line = k / group * (group / 8 + 1);
  const std::uint32_t head = row[head_line * kPanelRows];
  const std::uint32_t word = row[(head_line + 1 + k % group / 8) * kPanelRows];
  const float s = __uint_as_float(head & ~15u);
  const int z = static_cast<int>(head & 15u);
  std::uint32_t pair[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const auto at = [&](int j) {
      return static_cast<float>(static_cast<int>(word >> 4 * j & 15u) - z) * s;
    };
    pair[i] = Element<__nv_bfloat16>::pair(at(2 * i), at(2 * i + 1));
  }
  return {pair[0], pair[1], pair[2], pair[3]};
}

__device__ uint4 eight_of_pairs(const std::uint32_t* row, int k) {
  const std::uint32_t* from = row + k / 2 * kPanelRows;
  return {from[0], from[kPanelRows], from[2 * kPanelRows], from[3 * kPanelRows]};
}

// A warp has four rows and eight runs of k, so that it writes 128 bytes a row; what it leaves of a
// line of the panel, its neighbours read out of the cache.
__global__ void unpack_kernel(const std::uint32_t* packed, int first, int count, int k, int group,
                              std::int64_t lines, uint4* to) {
  follow();
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int run = (blockIdx.x * 2 + warp / 4) * 8 + lane % 8;
  const int row = blockIdx.y * kPanelRows + warp % 4 * 4 + lane / 8;
  if (row >= count || run * kRun >= k) return;
  const std::int64_t at = first + row;
  const std::uint32_t* from = packed + at / kPanelRows * lines * kPanelRows + at % kPanelRows;
  to[std::int64_t{row} * (k / kRun) + run] =
      group ? eight_of_w4(from, run * kRun, group) : eight_of_pairs(from, run * kRun);
}

template <class T>
__global__ void round_kernel(const float4* x, std::int64_t runs, uint4* to) {
  follow();
  const std::int64_t i = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i < runs) to[i] = PairFormat<T>::pack(x[2 * i], x[2 * i + 1]);
}

}  // namespace

void unpack_rows(const LinearProblem& p, std::int64_t first, std::int64_t count, void* to,
                 cudaStream_t stream) {
  const std::int64_t lines = p.group ? p.k / 8 + p.k / p.group : p.k / 2;
  const dim3 grid(static_cast<unsigned>((p.k / kRun + 15) / 16),
                  static_cast<unsigned>((count + kPanelRows - 1) / kPanelRows));
  launch(unpack_kernel, {grid, kThreads, 0, stream}, static_cast<const std::uint32_t*>(p.weight),
         static_cast<int>(first), static_cast<int>(count), static_cast<int>(p.k),
         static_cast<int>(p.group), lines, static_cast<uint4*>(to));
}

void round_rows(const LinearProblem& p, DType type, void* to, cudaStream_t stream) {
  const std::int64_t runs = p.rows * p.k / kRun;
  const dim3 grid(static_cast<unsigned>((runs + kThreads - 1) / kThreads));
  with_half_element(type, [&](auto element) {
    launch(round_kernel<decltype(element)>, {grid, kThreads, 0, stream},
           reinterpret_cast<const float4*>(p.x), runs, static_cast<uint4*>(to));
  });
}

}  // namespace dream_r::cuda
