// Activations and sums, one element a thread: neighbouring threads read neighbouring elements, so a
// warp's loads are whole lines, and enough of them are under way to fill the bandwidth.
#include "ops/cuda/kernels.h"
#include "ops/cuda/launch.cuh"

namespace dream_r::cuda {
namespace {

constexpr int kThreads = 256;

unsigned blocks_for(std::int64_t n) { return static_cast<unsigned>((n + kThreads - 1) / kThreads); }

// The thread's element; what is there may be read.
__device__ __forceinline__ std::int64_t element() {
  follow();
  return static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
}

// Rows along the grid's second axis, which ends at 65535.
__global__ void silu_mul_kernel(const float* gate_up, std::int64_t rows, std::int64_t f,
                                float* out) {
  const std::int64_t i = element();
  if (i >= f) return;
  for (std::int64_t t = blockIdx.y; t < rows; t += gridDim.y) {
    const float gate = gate_up[t * 2 * f + i];
    out[t * f + i] = gate / (1.0f + expf(-gate)) * gate_up[t * 2 * f + f + i];
  }
}

__global__ void gelu_exact_kernel(float* x, std::int64_t n) {
  const std::int64_t i = element();
  if (i < n) x[i] = 0.5f * x[i] * (1.0f + erff(x[i] * 0.70710678f));
}

// 0.5 (1 + tanh(u)) = 1 / (1 + exp(-2u)), u = sqrt(2 / pi) (x + 0.044715 x^3).
__global__ void gelu_tanh_kernel(float* x, std::int64_t n) {
  const std::int64_t i = element();
  if (i >= n) return;
  constexpr float kTwice = 2.0f * 0.79788456f;
  const float v = x[i], u = v * (kTwice + kTwice * 0.044715f * v * v);
  x[i] = v / (1.0f + expf(-u));
}

__global__ void add_kernel(float* a, const float* b, std::int64_t n) {
  const std::int64_t i = element();
  if (i < n) a[i] += b[i];
}

}  // namespace

void silu_mul(const float* gate_up, std::int64_t rows, std::int64_t f, float* out,
              cudaStream_t stream) {
  if (rows == 0 || f == 0) return;
  const auto y = static_cast<unsigned>(rows < 65535 ? rows : 65535);
  launch(silu_mul_kernel, {{blocks_for(f), y}, kThreads, 0, stream}, gate_up, rows, f, out);
}

void gelu_exact(float* x, std::int64_t n, cudaStream_t stream) {
  if (n > 0) launch(gelu_exact_kernel, {blocks_for(n), kThreads, 0, stream}, x, n);
}

void gelu_tanh(float* x, std::int64_t n, cudaStream_t stream) {
  if (n > 0) launch(gelu_tanh_kernel, {blocks_for(n), kThreads, 0, stream}, x, n);
}

void add(float* a, const float* b, std::int64_t n, cudaStream_t stream) {
  if (n > 0) launch(add_kernel, {blocks_for(n), kThreads, 0, stream}, a, b, n);
}

}  // namespace dream_r::cuda
