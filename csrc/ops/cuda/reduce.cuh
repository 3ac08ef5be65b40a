#pragma once
// Sums and maxima over a warp or a block, in one order whatever else runs: every thread gets the
// result. All threads must call them together; blocks are whole warps.
#include <cuda_runtime.h>

namespace dream_r::cuda {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

template <class T, class F>
__device__ __forceinline__ T warp_reduce(T value, F f) {
  for (int offset = kWarp / 2; offset > 0; offset /= 2)
    value = f(value, __shfl_xor_sync(kAllLanes, value, offset));
  return value;
}

// `none` is f's neutral element. May be called again at once: the first barrier comes after every
// thread has read the previous result.
template <class T, class F>
__device__ __forceinline__ T block_reduce(T value, T none, F f) {
  __shared__ T partial[kWarp];
  value = warp_reduce(value, f);
  __syncthreads();
  if (threadIdx.x % kWarp == 0) partial[threadIdx.x / kWarp] = value;
  __syncthreads();
  const unsigned lane = threadIdx.x % kWarp;
  return warp_reduce(lane < blockDim.x / kWarp ? partial[lane] : none, f);
}

template <class T>
__device__ __forceinline__ T block_sum(T value) {
  return block_reduce(value, T(0), [](T a, T b) { return a + b; });
}

}  // namespace dream_r::cuda
