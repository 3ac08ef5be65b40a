#include "quant/w4.h"

#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "doctest.h"
#include "ops/ops.h"

using namespace dream_r;
using namespace dream_r::quant;

namespace {

// The numbers behind a matrix, before any layout.
struct Plain {
  std::int64_t n, k, group;
  std::vector<int> q, z;         // [n][k], [n][k/group]
  std::vector<std::uint16_t> s;  // bf16 bits, [n][k/group]

  std::int64_t groups() const { return k / group; }
  float scale(std::int64_t i) const {
    bf16 b;
    b.bits = s[static_cast<std::size_t>(i)];
    return static_cast<float>(b);
  }
};

Plain make(std::int64_t n, std::int64_t k, std::int64_t group, bool symmetric = false) {
  static std::mt19937 engine(3);
  const auto below = [](int m) { return std::uniform_int_distribution<int>(0, m - 1)(engine); };
  Plain p{n, k, group, {}, {}, {}};
  for (std::int64_t i = 0; i < n * k; ++i) p.q.push_back(below(16));
  for (std::int64_t i = 0; i < n * p.groups(); ++i) {
    p.z.push_back(symmetric ? 8 : below(16));
    p.s.push_back(bf16(0.01f * static_cast<float>(1 + below(1000))).bits);
  }
  return p;
}

Tensor zeros(Shape shape, DType dtype) {
  Tensor t = Tensor::empty(shape, dtype);
  std::memset(t.data<std::byte>(), 0, t.nbytes());
  return t;
}

void or_nibble(const Tensor& t, std::int64_t word, int nibble, int value) {
  t.data<std::uint32_t>()[word] |= static_cast<std::uint32_t>(value) << 4 * nibble;
}

Tensor scales(const Plain& p, DType dtype, bool by_group) {
  const std::int64_t n = p.n, g = p.groups();
  Tensor t = zeros(by_group ? Shape{g, n} : Shape{n, g}, dtype);
  for (std::int64_t i = 0; i < n * g; ++i) {
    const std::int64_t at = by_group ? i % g * n + i / g : i;
    if (dtype == DType::bf16) {
      t.data<std::uint16_t>()[at] = p.s[static_cast<std::size_t>(i)];
    } else {
      t.data<float>()[at] = p.scale(i);
    }
  }
  return t;
}

W4Matrix awq(const Plain& p, DType scale_type = DType::bf16) {
  constexpr int kOrder[8] = {0, 2, 4, 6, 1, 3, 5, 7};
  W4Matrix m{"awq.scales", W4Layout::awq_gemm, p.n, p.k, p.group, {}, {}, {}};
  m.words = zeros({p.k, p.n / 8}, DType::i32);
  m.zeros = zeros({p.groups(), p.n / 8}, DType::i32);
  m.scales = scales(p, scale_type, true);
  for (std::int64_t c = 0; c < p.n / 8; ++c)
    for (int i = 0; i < 8; ++i) {
      const std::int64_t row = 8 * c + kOrder[i];
      for (std::int64_t j = 0; j < p.k; ++j)
        or_nibble(m.words, j * (p.n / 8) + c, i, p.q[static_cast<std::size_t>(row * p.k + j)]);
      for (std::int64_t g = 0; g < p.groups(); ++g)
        or_nibble(m.zeros, g * (p.n / 8) + c, i,
                  p.z[static_cast<std::size_t>(row * p.groups() + g)]);
    }
  return m;
}

W4Matrix packed(const Plain& p, bool symmetric = false, DType scale_type = DType::bf16) {
  W4Matrix m{"packed.weight_scale", W4Layout::pack_quantized, p.n, p.k, p.group, {}, {}, {}};
  m.words = zeros({p.n, p.k / 8}, DType::i32);
  m.scales = scales(p, scale_type, false);
  if (!symmetric) m.zeros = zeros({(p.n + 7) / 8, p.groups()}, DType::i32);
  for (std::int64_t i = 0; i < p.n; ++i) {
    for (std::int64_t j = 0; j < p.k; ++j)
      or_nibble(m.words, (i * p.k + j) / 8, static_cast<int>(j % 8),
                p.q[static_cast<std::size_t>(i * p.k + j)]);
    for (std::int64_t g = 0; !symmetric && g < p.groups(); ++g)
      or_nibble(m.zeros, i / 8 * p.groups() + g, static_cast<int>(i % 8),
                p.z[static_cast<std::size_t>(i * p.groups() + g)]);
  }
  return m;
}

// Elements of the packed weight whose bits differ from (q - z) * s.
int differences(const LinearWeight& w, std::int64_t first, const Plain& p) {
  Stream s(1);
  Tensor row = Tensor::empty({1, p.k}, DType::f32), id = Tensor::empty({1}, DType::i32);
  int wrong = 0;
  for (std::int64_t i = 0; i < p.n; ++i) {
    *id.data<std::int32_t>() = static_cast<std::int32_t>(first + i);
    ops::embedding(s, id, w, row);
    for (std::int64_t j = 0; j < p.k; ++j) {
      const std::int64_t g = i * p.groups() + j / p.group;
      const int q = p.q[static_cast<std::size_t>(i * p.k + j)];
      const float want = static_cast<float>(q - p.z[static_cast<std::size_t>(g)]) * p.scale(g);
      wrong += std::memcmp(&want, row.f32() + j, 4) != 0;
    }
  }
  return wrong;
}

LinearWeight pack(std::vector<W4Matrix> parts, int threads = 1) {
  Stream s(threads);
  return pack_w4(s, parts);
}

// The message of the Error that packing `m` gives.
std::string refusal(W4Matrix m) {
  try {
    pack({std::move(m)});
  } catch (const Error& e) {
    return e.what();
  }
  return "";
}

}  // namespace

TEST_CASE("both layouts unpack to (q - z) * s") {
  for (const int group : {32, 64, 128})
    for (const int n : {8, 24, 64, 136}) {
      const Plain p = make(n, 2 * group, group);
      CAPTURE(n);
      CHECK(differences(pack({awq(p)}), 0, p) == 0);
      CHECK(differences(pack({packed(p)}), 0, p) == 0);
      CHECK(differences(pack({awq(p, DType::f32)}, 2), 0, p) == 0);
    }
}

TEST_CASE("any number of rows, symmetric and not") {
  for (const int n : {1, 7, 9, 16, 33, 300})
    for (const bool symmetric : {false, true}) {
      const Plain p = make(n, 192, 64, symmetric);
      CAPTURE(n);
      CHECK(differences(pack({packed(p, symmetric)}), 0, p) == 0);
      CHECK(differences(pack({packed(p, symmetric, DType::f32)}, 2), 0, p) == 0);
    }
}

TEST_CASE("f16 scales are kept exactly, the smallest too") {
  Plain p = make(8, 64, 64);
  W4Matrix m = packed(p);
  m.scales = zeros({8, 1}, DType::f16);
  const std::uint16_t halves[8] = {0x0001, 0x03ff, 0x0400, 0x3c01, 0x7bff, 0xb555, 0x0000, 0x2e66};
  std::memcpy(m.scales.data<std::byte>(), halves, 16);
  Stream s(1);
  Tensor rows = Tensor::empty({8, 64}, DType::f32), ids = Tensor::empty({8}, DType::i32);
  for (int i = 0; i < 8; ++i) ids.data<std::int32_t>()[i] = i;
  ops::embedding(s, ids, pack({m}), rows);
  for (std::size_t i = 0; i < 8; ++i)
    for (std::size_t j = 0; j < 64; ++j)
      CHECK(rows.f32()[i * 64 + j] == static_cast<float>(p.q[i * 64 + j] - p.z[i]) *
                                          static_cast<float>(std::bit_cast<f16>(halves[i])));
}

TEST_CASE("stacked matrices keep their own scales and zeros") {
  const Plain a = make(24, 128, 32), b = make(8, 128, 32), c = make(40, 128, 32);
  for (const int threads : {1, 2}) {
    const LinearWeight w = pack({awq(a), awq(b), awq(c)}, threads);
    CHECK(w.n == 72);
    CHECK(differences(w, 0, a) + differences(w, 24, b) + differences(w, 32, c) == 0);
  }
  const Plain d = make(5, 128, 32), e = make(30, 128, 32, true);
  const LinearWeight w = pack({packed(d), packed(e, true)});
  CHECK(differences(w, 0, d) + differences(w, 5, e) == 0);
  // The lanes after the last row give zeros whatever is multiplied with them.
  const auto* lanes = w.packed.data<std::uint32_t>() + 2 * w.steps() * 16;
  for (std::int64_t i = 0; i < w.steps() * 16; ++i)
    if (i % 16 >= 3) CHECK(lanes[i] == 0);
}

TEST_CASE("what cannot be packed is refused by name") {
  CHECK(refusal(packed(make(8, 96, 48))) ==
        "packed.weight_scale: group size 48 is not supported, 32, 64 or 128 is");
  W4Matrix ragged = packed(make(8, 128, 32));
  ragged.k = 160;
  ragged.group = 64;
  CHECK(refusal(ragged) == "packed.weight_scale: group size 64 does not divide 160 inputs");
  W4Matrix odd = awq(make(16, 64, 32));
  odd.n = 12;
  CHECK(refusal(odd) == "awq.scales: 12 outputs are no multiple of 8");
  W4Matrix no_zeros = awq(make(8, 64, 64));
  no_zeros.zeros = Tensor();
  CHECK(refusal(no_zeros).starts_with("awq.scales: zeros "));
  W4Matrix transposed = packed(make(8, 64, 32));
  transposed.scales = zeros({2, 8}, DType::bf16);
  CHECK(refusal(transposed).starts_with("packed.weight_scale: scales "));

  W4Matrix infinite = packed(make(8, 64, 32));
  infinite.scales.data<std::uint16_t>()[5] = 0x7f80;
  CHECK(refusal(infinite) == "packed.weight_scale: scale 5 is inf");
  W4Matrix fine = packed(make(8, 64, 32), false, DType::f32);
  fine.scales.f32()[3] = std::nextafter(0.5f, 1.0f);
  CHECK(refusal(fine).starts_with("packed.weight_scale: scale 3 has more than 20"));

  CHECK_THROWS_AS(pack({}), Error);
  CHECK_THROWS_AS(pack({awq(make(8, 64, 32)), awq(make(8, 64, 64))}), Error);
  CHECK_THROWS_AS(pack({awq(make(8, 64, 32)), awq(make(8, 128, 32))}), Error);
}
