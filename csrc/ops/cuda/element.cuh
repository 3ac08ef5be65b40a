#pragma once
// The element types of weights and caches, for kernels that are written once for all of them: f32
// -> element rounds to nearest even, to f16 within its finite range (an activation that passes
// 65504 becomes that and not inf). A pair is two neighbours in a word, the lower half first: what
// the tensor cores multiply.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <cstring>

#include "core/dtype.h"
#include "ops/cuda/ptx.cuh"

namespace dream_r::cuda {

template <class T>
struct Element;

template <>
struct Element<float> {
  __device__ static float narrow(float x) { return x; }
  __device__ static float widen(float x) { return x; }
};

template <>
struct Element<__nv_bfloat16> {
  __device__ static __nv_bfloat16 narrow(float x) { return __float2bfloat16_rn(x); }
  __device__ static float widen(__nv_bfloat16 x) { return __bfloat162float(x); }
  __device__ static std::uint32_t pair(float low, float high) {
    const __nv_bfloat162 both = __floats2bfloat162_rn(low, high);
    std::uint32_t bits;
    memcpy(&bits, &both, sizeof bits);
    return bits;
  }
  __device__ static float2 widen_pair(std::uint32_t pair) {
    return {__uint_as_float(pair << 16), __uint_as_float(pair & 0xffff0000u)};
  }
  // d += a b, as mma_bf16.
  __device__ static void multiply(float (&d)[4], const std::uint32_t (&a)[4],
                                  const std::uint32_t (&b)[2]) {
    mma_bf16(d, a, b);
  }
};

template <>
struct Element<__half> {
  __device__ static __half narrow(float x) {
    return __ushort_as_half(static_cast<unsigned short>(f16_pair(x, 0.0f)));
  }
  __device__ static float widen(__half x) { return __half2float(x); }
  __device__ static std::uint32_t pair(float low, float high) { return f16_pair(low, high); }
  __device__ static float2 widen_pair(std::uint32_t pair) {
    __half2 both;
    memcpy(&both, &pair, sizeof pair);
    return __half22float2(both);
  }
  __device__ static void multiply(float (&d)[4], const std::uint32_t (&a)[4],
                                  const std::uint32_t (&b)[2]) {
    mma_f16(d, a, b);
  }
};

// f(T()) with the element type of a weight or a cache.
template <class F>
void with_element(DType type, F&& f) {
  if (type == DType::f32) return f(float());
  if (type == DType::f16) return f(__half());
  f(__nv_bfloat16());
}
// The same where f32 cannot be.
template <class F>
void with_half_element(DType type, F&& f) {
  if (type == DType::f16) return f(__half());
  f(__nv_bfloat16());
}

}  // namespace dream_r::cuda
