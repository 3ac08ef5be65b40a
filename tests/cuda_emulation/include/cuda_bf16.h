#pragma once
// Stand-in for the part of cuda_bf16.h that the kernels use. Arithmetic rounds once, to nearest
// even.
#include <bit>
#include <cmath>
#include <cstdint>

#include "vector_types.h"

namespace cuda_emulation {

// The bf16 nearest to x. In two steps over f32 the first one rounds to odd, so that the second
// decides as if it had seen x.
inline std::uint16_t bf16_bits(double x) {
  float f = static_cast<float>(x);
  auto u = std::bit_cast<std::uint32_t>(f);
  if (std::isnan(x)) return 0x7fff;
  if (std::isfinite(f) && static_cast<double>(f) != x) {
    if (std::abs(static_cast<double>(f)) > std::abs(x)) --u;  // towards zero
    u |= 1u;
  }
  return static_cast<std::uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}

}  // namespace cuda_emulation

struct __nv_bfloat16 {
  std::uint16_t bits;
};
struct alignas(4) __nv_bfloat162 {
  __nv_bfloat16 x, y;
};
typedef __nv_bfloat16 nv_bfloat16;
typedef __nv_bfloat162 nv_bfloat162;
struct __nv_bfloat16_raw {
  std::uint16_t x;
};

inline float __bfloat162float(__nv_bfloat16 x) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(x.bits) << 16);
}
inline __nv_bfloat16 __float2bfloat16_rn(float x) { return {cuda_emulation::bf16_bits(x)}; }
inline __nv_bfloat16 __float2bfloat16(float x) { return __float2bfloat16_rn(x); }
inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y) {
  return {__float2bfloat16_rn(x), __float2bfloat16_rn(y)};
}
inline float2 __bfloat1622float2(__nv_bfloat162 v) {
  return {__bfloat162float(v.x), __bfloat162float(v.y)};
}
inline __nv_bfloat162 __halves2bfloat162(__nv_bfloat16 x, __nv_bfloat16 y) { return {x, y}; }
inline __nv_bfloat162 __bfloat162bfloat162(__nv_bfloat16 x) { return {x, x}; }
inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short bits) { return {bits}; }
inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 x) { return x.bits; }
inline __nv_bfloat16 __low2bfloat16(__nv_bfloat162 v) { return v.x; }
inline __nv_bfloat16 __high2bfloat16(__nv_bfloat162 v) { return v.y; }
inline float __low2float(__nv_bfloat162 v) { return __bfloat162float(v.x); }
inline float __high2float(__nv_bfloat162 v) { return __bfloat162float(v.y); }

#define DR_EACH(name, parameters, expression)                                                \
  inline __nv_bfloat16 name(parameters(__nv_bfloat16)) {                                     \
    const auto f = [](__nv_bfloat16 v) { return static_cast<double>(__bfloat162float(v)); }; \
    return {cuda_emulation::bf16_bits(expression)};                                          \
  }
#define DR_TWO(T) T a, T b
#define DR_THREE(T) T a, T b, T c
DR_EACH(__hadd, DR_TWO, f(a) + f(b))
DR_EACH(__hsub, DR_TWO, f(a) - f(b))
DR_EACH(__hmul, DR_TWO, f(a) * f(b))
DR_EACH(__hfma, DR_THREE, f(a) * f(b) + f(c))
#undef DR_EACH
inline __nv_bfloat162 __hadd2(__nv_bfloat162 a, __nv_bfloat162 b) {
  return {__hadd(a.x, b.x), __hadd(a.y, b.y)};
}
inline __nv_bfloat162 __hsub2(__nv_bfloat162 a, __nv_bfloat162 b) {
  return {__hsub(a.x, b.x), __hsub(a.y, b.y)};
}
inline __nv_bfloat162 __hmul2(__nv_bfloat162 a, __nv_bfloat162 b) {
  return {__hmul(a.x, b.x), __hmul(a.y, b.y)};
}
inline __nv_bfloat162 __hfma2(__nv_bfloat162 a, __nv_bfloat162 b, __nv_bfloat162 c) {
  return {__hfma(a.x, b.x, c.x), __hfma(a.y, b.y, c.y)};
}
#undef DR_TWO
#undef DR_THREE
