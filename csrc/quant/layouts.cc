#include "quant/layouts.h"

namespace dream_r::quant {
namespace {

// Nibble i of an AWQ word belongs to output 8c + kOrder[i].
constexpr int kOrder[8] = {0, 2, 4, 6, 1, 3, 5, 7};

// Nibble j of word i <-> nibble i of word j: halves, then quarters, then neighbours swapped.
void transpose(std::uint32_t* w) {
  const auto swap = [w](int distance, std::uint32_t mask) {
    for (int i = 0; i < 8; ++i) {
      if (i & distance) continue;
      std::uint32_t& a = w[i];
      std::uint32_t& b = w[i + distance];
      const std::uint32_t t = (a >> 4 * distance ^ b) & mask;
      b ^= t;
      a ^= t << 4 * distance;
    }
  };
  swap(4, 0x0000ffffu);
  swap(2, 0x00ff00ffu);
  swap(1, 0x0f0f0f0fu);
}

}  // namespace

void AwqGemm::words(std::int64_t row, std::int64_t /*count*/, std::int64_t c,
                    std::uint32_t* out) const {
  const auto* from = m.words.data<std::uint32_t>() + 8 * c * (m.n / 8) + row / 8;
  std::uint32_t w[8];
  for (int j = 0; j < 8; ++j) w[j] = from[j * (m.n / 8)];
  transpose(w);
  for (int i = 0; i < 8; ++i) out[kOrder[i]] = w[i];
}

void AwqGemm::heads(std::int64_t row, std::int64_t /*count*/, std::int64_t g,
                    std::uint32_t* out) const {
  const std::uint32_t zeros = m.zeros.data<std::uint32_t>()[g * (m.n / 8) + row / 8];
  for (int i = 0; i < 8; ++i) {
    const std::int64_t at = g * m.n + row + kOrder[i];
    out[kOrder[i]] = head(float_at(m.scales, at), zeros >> 4 * i & 15u);
  }
}

void PackQuantized::words(std::int64_t row, std::int64_t count, std::int64_t c,
                          std::uint32_t* out) const {
  const auto* from = m.words.data<std::uint32_t>() + row * (m.k / 8) + c;
  for (std::int64_t i = 0; i < count; ++i) out[i] = from[i * (m.k / 8)];
}

void PackQuantized::heads(std::int64_t row, std::int64_t count, std::int64_t g,
                          std::uint32_t* out) const {
  const std::int64_t groups = m.k / m.group;
  const std::uint32_t zeros =
      m.zeros.defined() ? m.zeros.data<std::uint32_t>()[row / 8 * groups + g] : 0x88888888u;
  for (std::int64_t i = 0; i < count; ++i)
    out[i] = head(float_at(m.scales, (row + i) * groups + g), zeros >> 4 * i & 15u);
}

}  // namespace dream_r::quant
