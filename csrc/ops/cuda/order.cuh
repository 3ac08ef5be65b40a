#pragma once
// Floats in an order that unsigned integers have, NaN lowest with -inf: so a maximum, a threshold
// or the next smaller one is integer arithmetic.
#include <cuda_runtime.h>

#include <cstdint>

namespace dream_r::cuda {

__device__ __forceinline__ float usable(float x) { return isnan(x) ? -INFINITY : x; }

// a < b exactly if rising(a) < rising(b); -0 equals 0.
__device__ __forceinline__ std::uint32_t rising(float x) {
  const std::uint32_t bits = __float_as_uint(x == 0.0f ? 0.0f : x);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

// Of two of these the larger has the larger x, among equals the lower id.
using Ranked = unsigned long long;
__device__ __forceinline__ Ranked ranked(float x, int id) {
  return Ranked{rising(usable(x))} << 32 | static_cast<std::uint32_t>(~id);
}
__device__ __forceinline__ int id_of(Ranked r) {
  return static_cast<int>(~static_cast<std::uint32_t>(r));
}
struct Larger {
  template <class T>
  __device__ T operator()(T a, T b) const {
    return a > b ? a : b;
  }
};

}  // namespace dream_r::cuda
