#include <bit>

#include "common.h"

using namespace dream_r;
using namespace dream_r::test;

namespace {

// A random w4 weight, laid out here by what linear_weight.h says, and the same matrix in f32.
struct Pair {
  LinearWeight w4;
  Tensor dense;          // (q - z) * s
  Tensor integers;       // q - z [n, k]
  Tensor scales, zeros;  // s, z [n, k / group]
};

// Of 20 significant bits.
float random_scale(Random& r) {
  return std::bit_cast<float>(std::bit_cast<std::uint32_t>(0.1f * r.normal()) & ~15u);
}

Pair make(Random& r, std::int64_t n, std::int64_t k, std::int64_t group) {
  Pair p{{WeightFormat::w4, n, k, group, {}, {}},
         filled({n, k}, 0),
         filled({n, k}, 0),
         filled({n, k / group}, 0),
         filled({n, k / group}, 0)};
  const std::int64_t lines = k / 8 + k / group;
  p.w4.packed = Tensor::empty({(n + 15) / 16, lines, 16}, DType::i32);
  std::memset(p.w4.packed.data<std::byte>(), 0, p.w4.packed.nbytes());
  auto* words = p.w4.packed.data<std::uint32_t>();
  for (std::int64_t row = 0; row < n; ++row)
    for (std::int64_t i = 0; i < k; ++i) {
      auto* panel = words + row / 16 * lines * 16 + row % 16;
      auto& head = panel[i / group * (group / 8 + 1) * 16];
      auto& word = panel[(i / group * (group / 8 + 1) + 1 + i % group / 8) * 16];
      if (i % group == 0) {
        const float scale = p.scales.f32()[(row * k + i) / group] = random_scale(r);
        const int zero = r.below(16);
        p.zeros.f32()[(row * k + i) / group] = static_cast<float>(zero);
        head = std::bit_cast<std::uint32_t>(scale) | static_cast<std::uint32_t>(zero);
      }
      const auto q = static_cast<std::uint32_t>(r.below(16));
      word |= q << 4 * (i % 8);
      const float integer = static_cast<float>(q) - static_cast<float>(head & 15u);
      p.integers.f32()[row * k + i] = integer;
      p.dense.f32()[row * k + i] = integer * p.scales.f32()[(row * k + i) / group];
    }
  return p;
}

// The table in use: whether its vectors fuse, and whether it multiplies by tiles of AMX.
bool fused() { return std::string(cpu_isa()).rfind("portable", 0) != 0; }
bool by_tiles() { return std::string(cpu_isa()).find("amx") != std::string::npos; }

float multiply_add(float a, float b, float c) {
  const float product = a * b;
  return fused() ? std::fma(a, b, c) : product + c;
}

// Sixteen lanes in order, then halves.
float sum_by_lanes(const float* x, std::int64_t count) {
  float lane[16];
  std::copy_n(x, 16, lane);
  for (std::int64_t i = 16; i < count; ++i) lane[i % 16] += x[i];
  for (int width = 8; width > 0; width /= 2)
    for (int i = 0; i < width; ++i) lane[i] += lane[i + width];
  return lane[0];
}

// Group by group: the zero's share, integers times x in order of k, then the scale.
float in_order(const Pair& p, const float* x, std::int64_t row) {
  float sum = 0;
  for (std::int64_t g = 0; g < p.w4.k; g += p.w4.group) {
    const std::int64_t at = (row * p.w4.k + g) / p.w4.group;
    const float zero = p.zeros.f32()[at];
    float group = zero * -sum_by_lanes(x + g, p.w4.group);
    for (std::int64_t i = g; i < g + p.w4.group; ++i)
      group = multiply_add(p.integers.f32()[row * p.w4.k + i] + zero, x[i], group);
    sum = multiply_add(p.scales.f32()[at], group, sum);
  }
  return sum;
}

// Group by group: x in bf16 times integers, in steps of 32 elements whose first and second halves
// of every eight are summed apart and always fused; then the scale.
float in_tile_order(const Pair& p, const float* x, std::int64_t row) {
  const float* w = p.integers.f32() + row * p.w4.k;
  float sum = 0;
  for (std::int64_t g = 0; g < p.w4.k; g += p.w4.group) {
    float group = 0;
    for (std::int64_t step = g; step < g + p.w4.group; step += 32) {
      float half[2] = {0, 0};
      for (std::int64_t i = step; i < step + 32; ++i)
        half[i % 8 / 4] = std::fma(static_cast<float>(bf16(x[i])), w[i], half[i % 8 / 4]);
      group += half[0] + half[1];
    }
    sum = multiply_add(p.scales.f32()[(row * p.w4.k + g) / p.w4.group], group, sum);
  }
  return sum;
}

// What the table in use promises.
Tensor expected(const Tensor& x, const Pair& p) {
  const std::int64_t rows = x.dim(0), n = p.w4.n;
  Tensor out = filled({rows, n}, 0);
  for (std::int64_t t = 0; t < rows; ++t)
    for (std::int64_t j = 0; j < n; ++j) {
      const float* row = x.f32() + t * p.w4.k;
      const float sum = by_tiles() ? in_tile_order(p, row, j) : in_order(p, row, j);
      out.f32()[t * n + j] = p.w4.bias.defined() ? sum + p.w4.bias.f32()[j] : sum;
    }
  return out;
}

}  // namespace

TEST_CASE("w4 linear equals the scalar sum in the order of its table bit for bit") {
  each_table([](Stream& s) {
    Random r;
    std::vector<int> counts = {64, 128};
    for (int rows = 1; rows <= 40; ++rows) counts.push_back(rows);
    for (const int group : {32, 64, 128})
      for (const int n : {1, 16, 75, 144}) {
        const int k = n == 75 ? 3 * group : group;
        Pair p = make(r, n, k, group);
        if (n % 2) p.w4.bias = r.tensor({n});
        const Tensor x = r.tensor({128, k}), want = expected(x, p);
        for (const int rows : counts) {
          Tensor out = filled({rows, n}, NAN);
          ops::linear(s, x.rows(0, rows), p.w4, out);
          CAPTURE(group);
          CAPTURE(n);
          CAPTURE(rows);
          CHECK(same_bits(out, want.rows(0, rows)));
        }
      }
  });
}

TEST_CASE("w4 linear on a device that rounds x to bf16") {
  if (!cuda_is_here()) return;
  Stream s(cuda_device());
  Random r;
  for (const int group : {32, 64, 128}) {
    Pair p = make(r, 50, group * 5, group);
    p.w4.bias = r.tensor({50});
    for (const int rows : {1, 5, 24}) {
      const Tensor x = r.tensor({rows, group * 5});
      std::vector<double> want;
      for (int t = 0; t < rows; ++t)
        for (int j = 0; j < 50; ++j) {
          double sum = p.w4.bias.f32()[j];
          for (int i = 0; i < group * 5; ++i)
            sum += static_cast<double>(static_cast<float>(bf16(x.f32()[t * group * 5 + i]))) *
                   p.dense.f32()[j * group * 5 + i];
          want.push_back(sum);
        }
      Tensor out = filled({rows, 50}, NAN);
      run(s, ops::linear, x, p.w4, out);
      CHECK(error(out, want) < 2e-5 * std::sqrt(group * 5));
    }
  }
}

// What f32 summation can lose, u = 2^-24. An element of group g passes through at most group + 2
// roundings there (X adds at most group / 16 + 4, the product with z one, the chain one each, two
// where multiply and add are apart), and one or two a group afterwards. With S the sum of
// |s| (q + z) |x| that bounds the error by u * (2 * group + group / 16 + 2 * k / group + 8) * S, to
// first order. Tiles round x.
TEST_CASE("w4 linear is within the roundings of f32 of the dequantised product, but by tiles") {
  each_isa([](Stream& s) {
    if (by_tiles()) return;
    Random r;
    const int k = 1024;
    for (const float mean : {0.0f, 3.0f})  // a mean is what (q - z) cancels and q does not
      for (const int group : {32, 64, 128}) {
        const Pair p = make(r, 50, k, group);
        Tensor x = r.tensor({5, k}), out = filled({5, 50}, NAN);
        for (std::int64_t i = 0; i < x.numel(); ++i) x.f32()[i] += mean;
        ops::linear(s, x, p.w4, out);
        const double roundings = 2.0 * group + group / 16 + 2.0 * k / group + 8;
        for (int t = 0; t < 5; ++t)
          for (int j = 0; j < 50; ++j) {
            double want = 0, most = 0;
            for (int i = 0; i < k; ++i) {
              const std::int64_t at = (j * k + i) / group;
              const double v = x.f32()[t * k + i], scale = p.scales.f32()[at];
              const double integer = p.integers.f32()[j * k + i], zero = p.zeros.f32()[at];
              want += integer * scale * v;
              most += (integer + 2 * zero) * std::abs(scale * v);
            }
            CHECK(std::abs(out.f32()[t * 50 + j] - want) < 0x1p-24 * roundings * most);
          }
      }
  });
}

TEST_CASE("a row's w4 result does not depend on the batch or the threads") {
  each_table([](Stream& one) {
    Stream two(2);
    Random r;
    // Enough panels to be split between threads; then so few that the rows are.
    for (const auto& [n, rows] : {std::pair{700, 64}, std::pair{24, 1500}}) {
      const Pair p = make(r, n, 256, 64);
      const Tensor x = r.tensor({rows, 256});
      Tensor all = filled({rows, n}, 0), split = filled({rows, n}, NAN);
      ops::linear(one, x, p.w4, all);
      ops::linear(two, x, p.w4, split);
      CHECK(same_bits(all, split));
      for (const int some : {1, 2, 3, 5, 7, 16, 17, 40}) {
        Tensor out = filled({some, n}, 0);
        ops::linear(two, x.rows(11, 11 + some), p.w4, out);
        CHECK(same_bits(out, all.rows(11, 11 + some)));
      }
    }
  });
}

TEST_CASE("selected and embedded rows of a w4 weight are those of the matrix") {
  each_table([](Stream& s) {
    Random r;
    Pair p = make(r, 100, 192, 64);
    p.w4.bias = r.tensor({100});
    const std::vector<std::int32_t> ids = {3, 99, 16, 0, 98};
    const Tensor x = r.tensor({3, 192});
    Tensor all = filled({3, 100}, 0), some = filled({3, 5}, 0), rows = filled({5, 192}, 0);
    ops::linear(s, x, p.w4, all);
    ops::linear(s, x, select_rows(s, p.w4, ids), some);
    for (int t = 0; t < 3; ++t)
      for (int j = 0; j < 5; ++j) CHECK(some.f32()[t * 5 + j] == all.f32()[t * 100 + ids[j]]);
    ops::embedding(s, ints(ids), p.w4, rows);
    for (int j = 0; j < 5; ++j)
      CHECK(same_bits(rows.rows(j, j + 1), p.dense.rows(ids[j], ids[j] + 1)));
  });
}

TEST_CASE("linear rejects wrong shapes for w4") {
  Stream s(1);
  Random r;
  const Pair p = make(r, 20, 64, 64);
  Tensor out = filled({2, 20}, 0);
  CHECK(rejects("linear", [&] { ops::linear(s, r.tensor({2, 32}), p.w4, out); }));
  CHECK(rejects("linear", [&] { ops::linear(s, r.tensor({3, 64}), p.w4, out); }));
}
