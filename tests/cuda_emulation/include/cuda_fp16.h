#pragma once
// Stand-in for the part of cuda_fp16.h that the kernels use. Arithmetic rounds once, to nearest
// even.
#include <bit>
#include <cstdint>

#include "vector_types.h"

struct __half {
  _Float16 value;
};
struct alignas(4) __half2 {
  __half x, y;
};
typedef __half half;
typedef __half2 half2;

inline float __half2float(__half x) { return static_cast<float>(x.value); }
inline __half __float2half_rn(float x) { return {static_cast<_Float16>(x)}; }
inline __half __float2half(float x) { return __float2half_rn(x); }
inline __half2 __floats2half2_rn(float x, float y) {
  return {__float2half_rn(x), __float2half_rn(y)};
}
inline float2 __half22float2(__half2 v) { return {__half2float(v.x), __half2float(v.y)}; }
inline __half2 __halves2half2(__half x, __half y) { return {x, y}; }
inline __half2 __half2half2(__half x) { return {x, x}; }
inline __half2 __float2half2_rn(float x) { return __half2half2(__float2half_rn(x)); }
inline __half __ushort_as_half(unsigned short bits) { return {std::bit_cast<_Float16>(bits)}; }
inline unsigned short __half_as_ushort(__half x) { return std::bit_cast<unsigned short>(x.value); }
inline float __low2float(__half2 v) { return __half2float(v.x); }
inline float __high2float(__half2 v) { return __half2float(v.y); }

namespace cuda_emulation {
inline double wide(__half x) { return static_cast<double>(x.value); }
inline __half narrow(double x) { return {static_cast<_Float16>(x)}; }
}  // namespace cuda_emulation
inline __half __hadd(__half a, __half b) {
  return cuda_emulation::narrow(cuda_emulation::wide(a) + cuda_emulation::wide(b));
}
inline __half __hsub(__half a, __half b) {
  return cuda_emulation::narrow(cuda_emulation::wide(a) - cuda_emulation::wide(b));
}
inline __half __hmul(__half a, __half b) {
  return cuda_emulation::narrow(cuda_emulation::wide(a) * cuda_emulation::wide(b));
}
inline __half __hfma(__half a, __half b, __half c) {
  using cuda_emulation::wide;
  return cuda_emulation::narrow(wide(a) * wide(b) + wide(c));
}
inline __half2 __hadd2(__half2 a, __half2 b) { return {__hadd(a.x, b.x), __hadd(a.y, b.y)}; }
inline __half2 __hsub2(__half2 a, __half2 b) { return {__hsub(a.x, b.x), __hsub(a.y, b.y)}; }
inline __half2 __hmul2(__half2 a, __half2 b) { return {__hmul(a.x, b.x), __hmul(a.y, b.y)}; }
inline __half2 __hfma2(__half2 a, __half2 b, __half2 c) {
  return {__hfma(a.x, b.x, c.x), __hfma(a.y, b.y, c.y)};
}
