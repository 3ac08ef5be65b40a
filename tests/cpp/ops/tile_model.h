#pragma once
// A model of AMX's tiles, bit for bit as published, that runs on any machine: the kernels over
// tiles are tested with it, and where AMX exists it is itself tested against the instructions.
#include <array>
#include <cmath>
#include <cstring>

#include "core/check.h"
#include "ops/cpu/kernels.h"
#include "ops/cpu/tiles.h"

namespace dream_r::test {

// A table whose linear kernels for bf16 and w4 run over tiles of the model, on its vectors.
const cpu::Kernels& portable_tiles();
const cpu::Kernels& avx2_tiles();

namespace {

// What DAZ and FTZ leave of a value: no denormals.
inline float flushed(float v) { return std::fpclassify(v) == FP_SUBNORMAL ? 0.0f * v : v; }

// An exact or nearly exact result (53 bits of a sum of two floats round to 24 as the sum itself
// would), rounded to f32. What would still be below 2^-126 after rounding to 24 bits is zero.
inline float rounded(double exact) {
  if (std::abs(exact) < 0x1p-126 - 0x1p-151) return std::copysign(0.0f, static_cast<float>(exact));
  return static_cast<float>(exact);
}

inline float sum_of(float a, float b) {
  return rounded(static_cast<double>(flushed(a)) + static_cast<double>(flushed(b)));
}

inline float widened(std::uint16_t bits) {
  const std::uint32_t wide = static_cast<std::uint32_t>(bits) << 16;
  float v;
  std::memcpy(&v, &wide, 4);
  return flushed(v);
}

// a product of bf16 values is exact in f64, so this is one rounding as in an FMA.
inline float fma_of(std::uint16_t a, std::uint16_t b, float c) {
  return rounded(static_cast<double>(widened(a)) * static_cast<double>(widened(b)) +
                 static_cast<double>(c));
}

class ModelTiles {
 public:
  explicit ModelTiles(const cpu::TileConfig& config) : config_(config) {
    DR_CHECK(config.palette == 1 && config.start_row == 0) << "tiles: palette or start row";
    for (int t = 0; t < 16; ++t)
      DR_CHECK(config.rows[t] <= (t < 8 ? 16 : 0) && config.row_bytes[t] <= (t < 8 ? 64 : 0))
          << "tiles: tile " << t << " of " << int{config.rows[t]} << " rows of "
          << config.row_bytes[t] << " bytes";
    for (auto& tile : tiles_) tile.fill(0);
  }

  template <int T>
  void zero() {
    check(T);
    tiles_[T].fill(0);
  }
  template <int T>
  void load(const void* p, std::int64_t stride) {
    zero<T>();
    for (int r = 0; r < config_.rows[T]; ++r)
      std::memcpy(&tiles_[T][32 * r], static_cast<const char*>(p) + r * stride,
                  config_.row_bytes[T]);
  }
  template <int T>
  void store(void* p, std::int64_t stride) {
    check(T);
    for (int r = 0; r < config_.rows[T]; ++r)
      std::memcpy(static_cast<char*>(p) + r * stride, &tiles_[T][32 * r], config_.row_bytes[T]);
  }
  // The even and the odd elements of the pairs are summed apart.
  template <int C, int A, int B>
  void dot() {
    for (const int t : {C, A, B}) check(t);
    const int pairs = config_.row_bytes[A] / 4, columns = config_.row_bytes[C] / 4;
    DR_CHECK(C != A && A != B && B != C) << "tiles: an operand twice";
    DR_CHECK(config_.rows[A] == config_.rows[C] && config_.rows[B] == pairs &&
             config_.row_bytes[B] == config_.row_bytes[C])
        << "tiles: shapes of " << C << ", " << A << ", " << B << " do not fit";
    for (int i = 0; i < config_.rows[C]; ++i)
      for (int j = 0; j < columns; ++j) {
        const auto *a = &tiles_[A][32 * i], *b = &tiles_[B][2 * j];
        float even = 0, odd = 0, c;
        for (int p = 0; p < pairs; ++p) {
          even = fma_of(a[2 * p], b[32 * p], even);
          odd = fma_of(a[2 * p + 1], b[32 * p + 1], odd);
        }
        auto* at = &tiles_[C][32 * i + 2 * j];
        std::memcpy(&c, at, 4);
        c = sum_of(c, sum_of(even, odd));
        std::memcpy(at, &c, 4);
      }
  }

 private:
  void check(int t) const { DR_CHECK(config_.rows[t] > 0) << "tiles: " << t << " has no shape"; }

  cpu::TileConfig config_;
  std::array<std::array<std::uint16_t, 512>, 8> tiles_;  // rows of 64 bytes
};

}  // namespace
}  // namespace dream_r::test
