// Rows of a packed weight as a small weight of their own: four bytes of each row in every line.
#include "ops/cuda/launch.cuh"
#include "ops/cuda/linear.h"

namespace dream_r::cuda {
namespace {

constexpr int kPanel = 16, kThreads = 256;

// A block moves up to 16 lines of a panel, a thread one word.
__global__ void select_rows_kernel(const std::uint32_t* packed, std::int64_t steps,
                                   const std::int32_t* ids, std::int64_t count, std::uint32_t* to) {
  follow();
  const std::int64_t step = std::int64_t{blockIdx.x} * (kThreads / kPanel) + threadIdx.x / kPanel;
  const std::int64_t lane = threadIdx.x % kPanel, row = std::int64_t{blockIdx.y} * kPanel + lane;
  if (step >= steps) return;
  std::uint32_t word = 0;
  if (row < count) {
    const std::int64_t id = ids[row];
    word = packed[(id / kPanel * steps + step) * kPanel + id % kPanel];
  }
  to[(std::int64_t{blockIdx.y} * steps + step) * kPanel + lane] = word;
}

}  // namespace

void select_rows(const void* packed, std::int64_t steps, const std::int32_t* ids,
                 std::int64_t count, void* to, cudaStream_t stream) {
  constexpr int kLines = kThreads / kPanel;
  const dim3 grid(static_cast<unsigned>((steps + kLines - 1) / kLines),
                  static_cast<unsigned>((count + kPanel - 1) / kPanel));
  launch(select_rows_kernel, {grid, kThreads, 0, stream}, static_cast<const std::uint32_t*>(packed),
         steps, ids, count, static_cast<std::uint32_t*>(to));
}

}  // namespace dream_r::cuda
