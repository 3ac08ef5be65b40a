#pragma once
// Reads eight rows of a checkpoint's INT4 matrix at a time. `words`: nibble j of out[i] is q of row
// `row + i`, element 8c + j. `heads`: out[i] is the head of row `row + i` in group g, the f32 bits
// of s with z in the low four. Only the first `count` of the eight are rows of the matrix.
#include <bit>
#include <cstdint>

#include "quant/w4.h"

namespace dream_r::quant {

inline std::uint32_t head(float scale, std::uint32_t zero) {
  return std::bit_cast<std::uint32_t>(scale) | zero;
}

struct AwqGemm {
  const W4Matrix& m;

  void words(std::int64_t row, std::int64_t count, std::int64_t c, std::uint32_t* out) const;
  void heads(std::int64_t row, std::int64_t count, std::int64_t g, std::uint32_t* out) const;
};

struct PackQuantized {
  const W4Matrix& m;

  void words(std::int64_t row, std::int64_t count, std::int64_t c, std::uint32_t* out) const;
  void heads(std::int64_t row, std::int64_t count, std::int64_t g, std::uint32_t* out) const;
};

}  // namespace dream_r::quant
