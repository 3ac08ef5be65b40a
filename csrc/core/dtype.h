#pragma once
#include <bit>
#include <cstddef>
#include <cstdint>

namespace dream_r {

enum class DType : std::uint8_t { f32, bf16, f16, i16, i32, i64, u8 };

constexpr std::size_t size_of(DType t) {
  switch (t) {
    case DType::f32:
    case DType::i32:
      return 4;
    case DType::bf16:
    case DType::f16:
    case DType::i16:
      return 2;
    case DType::i64:
      return 8;
    case DType::u8:
      return 1;
  }
  return 0;
}

const char* name_of(DType t);

// The upper half of an IEEE float. Conversion rounds to nearest even; NaN stays NaN.
struct bf16 {
  std::uint16_t bits = 0;
  bf16() = default;
  explicit bf16(float f) {
    const auto u = std::bit_cast<std::uint32_t>(f);
    const bool nan = (u & 0x7fffffffu) > 0x7f800000u;
    bits = static_cast<std::uint16_t>(nan ? (u >> 16) | 0x40u
                                          : (u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
  }
  explicit operator float() const {
    return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
  }
};

// IEEE half precision. Conversion rounds to nearest even and stays finite: what is beyond 65504,
// infinity too, becomes that (one outlier must not turn a whole row into inf). NaN stays NaN.
struct f16 {
  std::uint16_t bits = 0;
  f16() = default;
  explicit f16(float f) {
    const auto u = std::bit_cast<std::uint32_t>(f), size = u & 0x7fffffffu;
    std::uint32_t h;
    if (size > 0x7f800000u)
      h = 0x7e00u;
    else if (size >= std::bit_cast<std::uint32_t>(65504.0f))
      h = 0x7bffu;
    else if (size < std::bit_cast<std::uint32_t>(0x1p-14f))  // subnormal: 2^-24 is 0.5's last place
      h = std::bit_cast<std::uint32_t>(std::bit_cast<float>(size) + 0.5f) & 0xffffu;
    else
      h = (size - (112u << 23) + 0xfffu + ((size >> 13) & 1u)) >> 13;
    bits = static_cast<std::uint16_t>(h | (u >> 16 & 0x8000u));
  }
  explicit operator float() const {
    const std::uint32_t sign = (bits & 0x8000u) << 16, size = bits & 0x7fffu;
    if (size < 0x400u) {
      const float f = 0x1p-24f * static_cast<float>(size);
      return std::bit_cast<float>(std::bit_cast<std::uint32_t>(f) | sign);
    }
    const std::uint32_t bias = size < 0x7c00u ? 112u << 23 : 224u << 23;  // inf and NaN
    return std::bit_cast<float>(sign | ((size << 13) + bias));
  }
};

}  // namespace dream_r
