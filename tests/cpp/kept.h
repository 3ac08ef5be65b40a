#pragma once
// What the element types of weights and caches keep of a value.
#include "core/dtype.h"

namespace dream_r::test {

inline float kept(float v, DType type) {
  if (type == DType::bf16) return static_cast<float>(bf16(v));
  return type == DType::f16 ? static_cast<float>(f16(v)) : v;
}

// At most this part of a value is lost: half a place behind 8 or 11 bits of significand.
constexpr double rounding(DType type) {
  return type == DType::bf16 ? 0x1p-8 : type == DType::f16 ? 0x1p-11 : 0.0;
}

}  // namespace dream_r::test
