// One block a row, read twice: for its maximum, then for the sum, in f64.
#include "ops/cuda/kernels.h"
#include "ops/cuda/launch.cuh"
#include "ops/cuda/order.cuh"
#include "ops/cuda/reduce.cuh"

namespace dream_r::cuda {
namespace {

constexpr int kThreads = 1024;

__global__ void __launch_bounds__(kThreads)
    log_sum_exp_kernel(const float* x, std::int64_t n, float* out) {
  follow();
  x += blockIdx.x * n;
  float most = -INFINITY;
  for (std::int64_t i = threadIdx.x; i < n; i += kThreads) most = fmaxf(most, usable(x[i]));
  most = block_reduce(most, -INFINITY, Larger{});
  double sum = 0;
  if (most > -INFINITY)
    for (std::int64_t i = threadIdx.x; i < n; i += kThreads)
      sum += static_cast<double>(expf(usable(x[i]) - most));
  sum = block_sum(sum);
  if (threadIdx.x == 0)
    out[blockIdx.x] = most > -INFINITY ? static_cast<float>(most + log(sum)) : most;
}

}  // namespace

void log_sum_exp(const float* x, std::int64_t rows, std::int64_t n, float* out,
                 cudaStream_t stream) {
  if (rows > 0)
    launch(log_sum_exp_kernel, {static_cast<unsigned>(rows), kThreads, 0, stream}, x, n, out);
}

}  // namespace dream_r::cuda
