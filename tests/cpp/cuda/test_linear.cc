// The products' launchers on plain arrays: both kernels, every width of a block, whole and ragged
// sizes, slices in blocks of their own and in turn. What an op promises is tested in ops/.
#include "ops/cuda/linear.h"

#include <bit>
#include <cmath>
#include <memory>
#include <random>

#include "device_array.h"
#include "kept.h"

using namespace dream_r;
using namespace dream_r::test;

namespace {

std::mt19937 engine(5);
float normal() { return std::normal_distribution<float>()(engine); }
std::uint32_t below(std::uint32_t n) { return engine() % n; }

// Panels as linear_weight.h has them, and the same matrix in f32 [n][k].
struct Matrix {
  DType x;  // what its products round x to
  std::int64_t n, k, group;
  std::vector<std::uint32_t> packed;
  std::vector<float> dense;
};

std::uint32_t bits(float v, DType type) { return type == DType::f16 ? f16(v).bits : bf16(v).bits; }

Matrix half_matrix(DType type, std::int64_t n, std::int64_t k) {
  const std::int64_t lines = (k + 1) / 2;
  Matrix m{type, n, k, 0, std::vector<std::uint32_t>((n + 15) / 16 * lines * 16), {}};
  for (std::int64_t j = 0; j < n; ++j)
    for (std::int64_t i = 0; i < k; ++i) {
      const float w = kept(normal(), type);
      m.packed[(j / 16 * lines + i / 2) * 16 + j % 16] |= bits(w, type) << i % 2 * 16;
      m.dense.push_back(w);
    }
  return m;
}

Matrix w4_matrix(std::int64_t n, std::int64_t k, std::int64_t group) {
  const std::int64_t lines = k / 8 + k / group;
  Matrix m{DType::bf16, n, k, group, std::vector<std::uint32_t>((n + 15) / 16 * lines * 16), {}};
  for (std::int64_t j = 0; j < n; ++j)
    for (std::int64_t i = 0; i < k; ++i) {
      auto* panel = m.packed.data() + j / 16 * lines * 16 + j % 16;
      auto& head = panel[i / group * (group / 8 + 1) * 16];
      if (i % group == 0)
        head = std::bit_cast<std::uint32_t>(static_cast<float>(bf16(0.1f * normal()))) | below(16);
      const std::uint32_t q = below(16);
      panel[(i / group * (group / 8 + 1) + 1 + i % group / 8) * 16] |= q << 4 * (i % 8);
      m.dense.push_back((static_cast<float>(q) - static_cast<float>(head & 15u)) *
                        std::bit_cast<float>(head & ~15u));
    }
  return m;
}

Matrix f32_matrix(std::int64_t n, std::int64_t k) {
  Matrix m{DType::f32, n, k, 0, std::vector<std::uint32_t>((n + 15) / 16 * k * 16), {}};
  for (std::int64_t j = 0; j < n; ++j)
    for (std::int64_t i = 0; i < k; ++i) {
      m.dense.push_back(normal());
      m.packed[(j / 16 * k + i) * 16 + j % 16] = std::bit_cast<std::uint32_t>(m.dense.back());
    }
  return m;
}

std::vector<float> random_rows(std::int64_t rows, std::int64_t k) {
  std::vector<float> x(static_cast<std::size_t>(rows * k));
  for (float& v : x) v = normal();
  return x;
}

std::vector<float> product(const TestStream& s, const Matrix& m, const std::vector<float>& x,
                           const std::vector<float>& bias, std::int64_t whole_n = 0) {
  const auto rows = static_cast<std::int64_t>(x.size()) / m.k;
  const DeviceArray<std::uint32_t> w(s, m.packed);
  const DeviceArray<float> xs(s, x), b(s, bias);
  const DeviceArray<float> out(static_cast<std::size_t>(rows * m.n));
  const cuda::LinearProblem p{xs.data(),  w.data(), bias.empty() ? nullptr : b.data(),
                              out.data(), rows,     m.n,
                              m.k,        m.group,  whole_n ? whole_n : m.n};
  const DeviceArray<std::byte> scratch(m.x == DType::f32 ? 0 : cuda::linear_scratch_bytes(p));
  if (m.x == DType::f32)
    cuda::linear_f32(p, s);
  else if (m.x == DType::f16)
    cuda::linear_f16(p, scratch.data(), s);
  else
    (m.group ? cuda::linear_w4 : cuda::linear_bf16)(p, scratch.data(), s);
  return out.host(s);
}

// The largest error over the sum of the products' magnitudes; NaN stays.
double error(const Matrix& m, const std::vector<float>& x, const std::vector<float>& bias,
             const std::vector<float>& got) {
  double worst = 0;
  for (std::size_t t = 0; t < x.size() / m.k; ++t)
    for (std::int64_t j = 0; j < m.n; ++j) {
      double sum = bias.empty() ? 0 : bias[j], all = std::abs(sum);
      for (std::int64_t i = 0; i < m.k; ++i) {
        const float v = x[t * m.k + i];
        const double p = static_cast<double>(kept(v, m.x)) * m.dense[j * m.k + i];
        sum += p, all += std::abs(p);
      }
      const double e = std::abs(got[t * m.n + j] - sum) / all;
      if (!(e <= worst)) worst = e;
    }
  return worst;
}

constexpr DType kHalves[] = {DType::bf16, DType::f16};
constexpr double kRounding = 3e-7;  // five roundings of f32, of all products' magnitudes

void check(const Matrix& m, std::initializer_list<int> counts) {
  const TestStream s;
  const auto bias = random_rows(1, m.n);
  for (const int rows : counts) {
    const auto x = random_rows(rows, m.k);
    CAPTURE(rows);
    const auto b = rows % 2 ? bias : std::vector<float>();
    CHECK(error(m, x, b, product(s, m, x, b)) < kRounding);
  }
}

std::vector<float> part(const std::vector<float>& v, std::int64_t width, int from, int to) {
  return {v.begin() + from * width, v.begin() + to * width};
}

// Rows [begin[e], begin[e + 1]) through matrix e.
std::vector<float> grouped(const TestStream& s, const std::vector<Matrix>& m,
                           const std::vector<float>& x, const std::vector<std::int32_t>& begin) {
  std::vector<std::unique_ptr<DeviceArray<std::uint32_t>>> weights;
  std::vector<const void*> at;
  for (const Matrix& one : m) {
    weights.push_back(std::make_unique<DeviceArray<std::uint32_t>>(s, one.packed));
    at.push_back(weights.back()->data());
  }
  const auto experts = static_cast<std::int64_t>(m.size()), rows = std::int64_t{begin.back()};
  const DeviceArray<float> xs(s, x);
  const DeviceArray<std::int32_t> begins(s, begin);
  const DeviceArray<float> out(static_cast<std::size_t>(rows * m[0].n));
  const cuda::GroupedProblem p{xs.data(), at.data(), begins.data(), out.data(), experts,
                               rows,      m[0].n,    m[0].k,        m[0].group};
  const DeviceArray<std::byte> scratch(cuda::grouped_scratch_bytes(p));
  const auto launch = m[0].x == DType::f16 ? cuda::grouped_linear_f16
                      : m[0].group         ? cuda::grouped_linear_w4
                                           : cuda::grouped_linear_bf16;
  launch(p, scratch.data(), s);
  return out.host(s);
}

}  // namespace

TEST_CASE("f32 products") {
  for (const auto& [n, k] : {std::pair{1, 1}, std::pair{35, 7}, std::pair{64, 129}})
    check(f32_matrix(n, k), {1, 4, 6});
}

TEST_CASE("bf16 and f16 products of whole chunks of k") {
  for (const DType type : kHalves)
    for (const auto& [n, k] : {std::pair{16, 32}, std::pair{36, 64}, std::pair{290, 160}})
      check(half_matrix(type, n, k), {1, 2, 3, 12, 29, 65});
}

TEST_CASE("bf16 and f16 products of odd sizes") {
  for (const DType type : kHalves)
    for (const auto& [n, k] : {std::pair{1, 1}, std::pair{35, 7}, std::pair{50, 129}})
      check(half_matrix(type, n, k), {1, 2, 5, 17, 40});
}

TEST_CASE("w4 products") {
  for (const int group : {32, 64, 128})
    for (const auto& [n, groups] : {std::pair{16, 1}, std::pair{35, 3}, std::pair{300, 5}})
      check(w4_matrix(n, group * groups, group), {1, 2, 7, 16, 32, 70});
}

TEST_CASE("a row of a product does not depend on the rows beside it") {
  const TestStream s;
  // Up to eight slices of k: in the thin kernel's warps, in blocks of their own, and, for the 8500
  // rows, one after another in a block.
  for (const Matrix& m : {w4_matrix(70, 2048, 64), half_matrix(DType::bf16, 70, 1152),
                          half_matrix(DType::f16, 70, 1152), w4_matrix(4, 512, 128)}) {
    const int most = m.k == 512 ? 8500 : 68;
    const auto x = random_rows(most, m.k);
    const auto all = product(s, m, x, {});
    if (most > 68) CHECK(error(m, x, {}, all) < kRounding);
    for (const int rows : {1, 2, 3, 9, 17, 33}) {
      CAPTURE(rows);
      CHECK(product(s, m, part(x, m.k, 31, 31 + rows), {}) == part(all, m.n, 31, 31 + rows));
    }
  }
}

TEST_CASE("matrices as the library reads them") {
  const TestStream s;
  for (const Matrix& m : {half_matrix(DType::bf16, 37, 40), half_matrix(DType::f16, 37, 40),
                          w4_matrix(37, 192, 64)}) {
    auto x = random_rows(3, m.k);
    x[5] = 1e6f;
    const DeviceArray<std::uint32_t> w(s, m.packed);
    const DeviceArray<float> xs(s, x);
    const DeviceArray<std::uint16_t> rows(20 * m.k), rounded(x.size());
    const cuda::LinearProblem p{xs.data(), w.data(), nullptr, nullptr, 3, m.n, m.k, m.group, m.n};
    cuda::unpack_rows(p, 17, 20, rows.data(), s);
    cuda::round_rows(p, m.x, rounded.data(), s);
    std::vector<std::uint16_t> want_rows, want_x;
    for (std::int64_t i = 17 * m.k; i < 37 * m.k; ++i)
      want_rows.push_back(static_cast<std::uint16_t>(bits(m.dense[i], m.x)));
    for (const float v : x) want_x.push_back(static_cast<std::uint16_t>(bits(v, m.x)));
    CHECK(rows.host(s) == want_rows);
    CHECK(rounded.host(s) == want_x);
  }
}

TEST_CASE("rows selected from a matrix keep its slices of k") {
  const TestStream s;
  const Matrix whole = half_matrix(DType::f16, 48, 1024);
  Matrix first = whole;
  first.n = 16;
  first.packed.resize(whole.packed.size() / 3);
  const auto x = random_rows(1, 1024);
  for (const int n : {48, 16384, 40000}) {  // four slices, two, one
    auto all = product(s, whole, x, {}, n);
    all.resize(16);
    CHECK(product(s, first, x, {}, n) == all);
  }
}

TEST_CASE("grouped products are those of each expert") {
  const TestStream s;
  // Experts without rows, first and last ones among them, and one with more than a block's columns;
  // few rows in all and many.
  const std::vector<std::int32_t> few = {0, 0, 3, 4, 4, 6, 6}, many = {0, 40, 40, 41, 57, 98, 98};
  for (const auto& [group, type] :
       {std::pair{0, DType::bf16}, {0, DType::f16}, {32, DType::bf16}, {128, DType::bf16}}) {
    std::vector<Matrix> m;
    for (int e = 0; e < 6; ++e)
      m.push_back(group ? w4_matrix(52, 256, group) : half_matrix(type, 52, 256));
    for (const auto& begin : {few, many}) {
      const auto x = random_rows(begin.back(), 256);
      const auto got = grouped(s, m, x, begin);
      for (int e = 0; e < 6; ++e) {
        if (begin[e] == begin[e + 1]) continue;
        const auto mine = part(x, 256, begin[e], begin[e + 1]);
        CHECK(product(s, m[e], mine, {}) == part(got, 52, begin[e], begin[e + 1]));
      }
    }
  }
}

TEST_CASE("forty experts, each found by its place among the busy ones") {
  const TestStream s;
  std::vector<Matrix> m;
  for (int e = 0; e < 40; ++e) m.push_back(half_matrix(DType::bf16, 3, 32));
  std::vector<std::int32_t> begin = {0};
  for (int e = 0; e < 40; ++e) begin.push_back(begin.back() + (e % 3 == 1 || e > 30));
  const auto x = random_rows(begin.back(), 32);
  const auto got = grouped(s, m, x, begin);
  for (int e = 0; e < 40; ++e)
    if (begin[e] < begin[e + 1])
      CHECK(product(s, m[e], part(x, 32, begin[e], begin[e + 1]), {}) ==
            part(got, 3, begin[e], begin[e + 1]));
}
