// out = x / sqrt(mean(x^2) + eps) * w, one row a block.
//
// The row is read twice, once for the sum and once to scale; the second read hits L1/L2, so device
// memory sees each element once in and once out: 8 bytes an element in f32. Four elements a thread
// and load (16 bytes) keep the loads wide; h is a multiple of 4 (every model's hidden size is). CPU
// reference: ops::rms_norm (csrc/ops/cpu).
#include <cuda_runtime.h>

#include <cstdint>

namespace dream_r::cuda {

namespace {

__device__ float block_sum(float value) {
  __shared__ float partial[32];
  for (int offset = 16; offset > 0; offset /= 2)
    value += __shfl_xor_sync(0xffffffffu, value, offset);
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = value;
  __syncthreads();
  const int warps = blockDim.x / 32;
  value = threadIdx.x % 32 < warps ? partial[threadIdx.x % 32] : 0.0f;
  for (int offset = 16; offset > 0; offset /= 2)
    value += __shfl_xor_sync(0xffffffffu, value, offset);
  return value;
}

__global__ void rms_norm_kernel(const float4* __restrict__ x, const float4* __restrict__ w,
                                float eps, int quads, float4* __restrict__ out) {
  const float4* row = x + static_cast<std::int64_t>(blockIdx.x) * quads;
  float sum = 0;
  for (int i = threadIdx.x; i < quads; i += blockDim.x) {
    const float4 v = row[i];
    sum += v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w;
  }
  const float scale = rsqrtf(block_sum(sum) / (4.0f * quads) + eps);
  float4* to = out + static_cast<std::int64_t>(blockIdx.x) * quads;
  for (int i = threadIdx.x; i < quads; i += blockDim.x) {
    const float4 v = row[i], g = w[i];
    to[i] = {v.x * scale * g.x, v.y * scale * g.y, v.z * scale * g.z, v.w * scale * g.w};
  }
}

}  // namespace

// x, out: f32 [rows, h] on the device, 16-byte aligned; w: f32 [h]; h % 4 == 0. May be in place.
cudaError_t rms_norm(const float* x, const float* w, float eps, int rows, int h, float* out,
                     cudaStream_t stream) {
  if (rows == 0) return cudaSuccess;
  constexpr int kThreads = 256;
  rms_norm_kernel<<<rows, kThreads, 0, stream>>>(reinterpret_cast<const float4*>(x),
                                                 reinterpret_cast<const float4*>(w), eps, h / 4,
                                                 reinterpret_cast<float4*>(out));
  return cudaGetLastError();
}

}  // namespace dream_r::cuda
