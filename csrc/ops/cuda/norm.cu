// Norms: one row a block.
//
// A row is read twice, once for the sum and once to scale; the second read hits L1/L2, so device
// memory sees each element once in and once out. Four elements a thread and load (16 bytes) keep
// the loads wide where h is a multiple of 4, which every model's is.
#include "ops/cuda/kernels.h"
#include "ops/cuda/launch.cuh"
#include "ops/cuda/reduce.cuh"

namespace dream_r::cuda {
namespace {

constexpr int kThreads = 256;

// kWide neighbours of a row.
template <int kWide>
struct Lanes {
  float v[kWide];
};

template <int kWide>
__device__ __forceinline__ Lanes<kWide> load(const float* row, std::int64_t i) {
  if constexpr (kWide == 4) {
    const float4 q = reinterpret_cast<const float4*>(row)[i];
    return {{q.x, q.y, q.z, q.w}};
  } else {
    return {{row[i]}};
  }
}

template <int kWide>
__device__ __forceinline__ void store(float* row, std::int64_t i, const Lanes<kWide>& x) {
  if constexpr (kWide == 4)
    reinterpret_cast<float4*>(row)[i] = {x.v[0], x.v[1], x.v[2], x.v[3]};
  else
    row[i] = x.v[0];
}

// out = x / sqrt(mean(x^2) + eps) * w; with `delta`, residual (x itself) += delta before.
template <int kWide>
__global__ void rms_norm_kernel(float* residual, const float* x, const float* delta, const float* w,
                                float eps, std::int64_t h, float* out) {
  // The weights have left the caches since the last layer's norm.
  constexpr int kLine = 32;
  for (std::int64_t i = threadIdx.x * kLine; i < h; i += kThreads * kLine) prefetch(w + i);
  follow();
  const std::int64_t at = blockIdx.x * h, steps = h / kWide;
  x += at, out += at;
  float sum = 0;
  for (std::int64_t i = threadIdx.x; i < steps; i += kThreads) {
    auto v = load<kWide>(x, i);
    if (residual) {
      const auto d = load<kWide>(delta + at, i);
      for (int j = 0; j < kWide; ++j) v.v[j] += d.v[j];
      store(residual + at, i, v);
    }
    for (int j = 0; j < kWide; ++j) sum += v.v[j] * v.v[j];
  }
  const float scale = 1.0f / sqrtf(block_sum(sum) / static_cast<float>(h) + eps);
  // A thread reads back what it wrote itself.
  const float* from = residual ? residual + at : x;
  for (std::int64_t i = threadIdx.x; i < steps; i += kThreads) {
    auto v = load<kWide>(from, i);
    const auto g = load<kWide>(w, i);
    for (int j = 0; j < kWide; ++j) v.v[j] = v.v[j] * scale * g.v[j];
    store(out, i, v);
  }
}

template <int kWide>
__global__ void layer_norm_kernel(const float* x, const float* w, const float* b, float eps,
                                  std::int64_t h, float* out) {
  follow();
  const std::int64_t at = blockIdx.x * h, steps = h / kWide;
  x += at, out += at;
  float sum = 0;
  for (std::int64_t i = threadIdx.x; i < steps; i += kThreads) {
    const auto v = load<kWide>(x, i);
    for (int j = 0; j < kWide; ++j) sum += v.v[j];
  }
  const float mean = block_sum(sum) / static_cast<float>(h);
  float squares = 0;
  for (std::int64_t i = threadIdx.x; i < steps; i += kThreads) {
    const auto v = load<kWide>(x, i);
    for (int j = 0; j < kWide; ++j) squares += (v.v[j] - mean) * (v.v[j] - mean);
  }
  const float scale = 1.0f / sqrtf(block_sum(squares) / static_cast<float>(h) + eps);
  for (std::int64_t i = threadIdx.x; i < steps; i += kThreads) {
    auto v = load<kWide>(x, i);
    const auto g = load<kWide>(w, i), add = load<kWide>(b, i);
    for (int j = 0; j < kWide; ++j) v.v[j] = (v.v[j] - mean) * scale * g.v[j] + add.v[j];
    store(out, i, v);
  }
}

}  // namespace

void rms_norm(const float* x, const float* w, float eps, std::int64_t rows, std::int64_t h,
              float* out, cudaStream_t stream) {
  if (rows == 0) return;
  const auto kernel = h % 4 == 0 ? rms_norm_kernel<4> : rms_norm_kernel<1>;
  launch(kernel, {static_cast<unsigned>(rows), kThreads, 0, stream}, nullptr, x, nullptr, w, eps, h,
         out);
}

void add_rms_norm(float* residual, const float* delta, const float* w, float eps, std::int64_t rows,
                  std::int64_t h, float* out, cudaStream_t stream) {
  if (rows == 0) return;
  const auto kernel = h % 4 == 0 ? rms_norm_kernel<4> : rms_norm_kernel<1>;
  launch(kernel, {static_cast<unsigned>(rows), kThreads, 0, stream}, residual, residual, delta, w,
         eps, h, out);
}

void layer_norm(const float* x, const float* w, const float* b, float eps, std::int64_t rows,
                std::int64_t h, float* out, cudaStream_t stream) {
  if (rows == 0) return;
  const auto kernel = h % 4 == 0 ? layer_norm_kernel<4> : layer_norm_kernel<1>;
  launch(kernel, {static_cast<unsigned>(rows), kThreads, 0, stream}, x, w, b, eps, h, out);
}

}  // namespace dream_r::cuda
