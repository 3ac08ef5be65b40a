// Norms: one row a block.
//
// Device memory sees each element once in and once out: what a second pass over the row does not
// find in registers is in L1 or L2. Four elements a thread and load (16 bytes) keep the loads wide
// where h is a multiple of 4, which every model's is.
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

// The first pieces of a thread, in registers: all of a model's row.
constexpr int kRmsThreads = 512, kHeld = 4;
__device__ __forceinline__ std::int64_t held_at(int j) {
  return std::int64_t{threadIdx.x} + j * kRmsThreads;
}
template <int kWide>
struct Held {
  Lanes<kWide> v[kHeld];
  __device__ __forceinline__ void read(const float* row, std::int64_t steps) {
#pragma unroll
    for (int j = 0; j < kHeld; ++j)
      if (held_at(j) < steps) v[j] = load<kWide>(row, held_at(j));
  }
};

// out = x / sqrt(mean(x^2) + eps) * w; with `delta`, residual (x itself) += delta before. One row
// waits for memory once, and its weights are there before the kernel in front has ended.
template <int kWide>
__global__ void __launch_bounds__(kRmsThreads)
    rms_norm_kernel(float* residual, const float* x, const float* delta, const float* w, float eps,
                    std::int64_t h, float* out) {
  const std::int64_t at = blockIdx.x * h, steps = h / kWide;
  Held<kWide> weight, own, added;
  weight.read(w, steps);
  follow();
  own.read(x + at, steps);
  if (residual) added.read(delta + at, steps);
  float sum = 0;
  const auto take = [&](std::int64_t i, Lanes<kWide>& v, const Lanes<kWide>& d) {
    if (residual) {
      for (int j = 0; j < kWide; ++j) v.v[j] += d.v[j];
      store(residual + at, i, v);
    }
    for (int j = 0; j < kWide; ++j) sum += v.v[j] * v.v[j];
  };
#pragma unroll
  for (int j = 0; j < kHeld; ++j)
    if (held_at(j) < steps) take(held_at(j), own.v[j], added.v[j]);
  for (std::int64_t i = held_at(kHeld); i < steps; i += kRmsThreads) {
    auto v = load<kWide>(x + at, i);
    take(i, v, residual ? load<kWide>(delta + at, i) : v);
  }
  const float scale = 1.0f / sqrtf(block_sum(sum) / static_cast<float>(h) + eps);
  const auto put = [&](std::int64_t i, Lanes<kWide> v, const Lanes<kWide>& g) {
    for (int j = 0; j < kWide; ++j) v.v[j] = v.v[j] * scale * g.v[j];
    store(out + at, i, v);
  };
#pragma unroll
  for (int j = 0; j < kHeld; ++j)
    if (held_at(j) < steps) put(held_at(j), own.v[j], weight.v[j]);
  // A thread reads back what it wrote itself.
  const float* from = (residual ? residual : x) + at;
  for (std::int64_t i = held_at(kHeld); i < steps; i += kRmsThreads)
    put(i, load<kWide>(from, i), load<kWide>(w, i));
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
  launch(kernel, {static_cast<unsigned>(rows), kRmsThreads, 0, stream}, nullptr, x, nullptr, w, eps,
         h, out);
}

void add_rms_norm(float* residual, const float* delta, const float* w, float eps, std::int64_t rows,
                  std::int64_t h, float* out, cudaStream_t stream) {
  if (rows == 0) return;
  const auto kernel = h % 4 == 0 ? rms_norm_kernel<4> : rms_norm_kernel<1>;
  launch(kernel, {static_cast<unsigned>(rows), kRmsThreads, 0, stream}, residual, residual, delta,
         w, eps, h, out);
}

void layer_norm(const float* x, const float* w, const float* b, float eps, std::int64_t rows,
                std::int64_t h, float* out, cudaStream_t stream) {
  if (rows == 0) return;
  const auto kernel = h % 4 == 0 ? layer_norm_kernel<4> : layer_norm_kernel<1>;
  launch(kernel, {static_cast<unsigned>(rows), kThreads, 0, stream}, x, w, b, eps, h, out);
}

}  // namespace dream_r::cuda
