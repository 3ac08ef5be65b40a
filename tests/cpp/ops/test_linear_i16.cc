#include <array>
#include <cmath>

#include "common.h"

using namespace dream_r;
using namespace dream_r::test;

namespace {

std::int64_t group_of(std::int64_t k) { return k % 64 ? 32 : 64; }

// A row in groups: whole numbers, the last group filled with zeros, and a scale each.
struct Numbers {
  std::vector<int> q;
  std::vector<float> scale;
};

Numbers numbers_of(const float* x, std::int64_t k) {
  Numbers out;
  const std::int64_t group = group_of(k);
  const float limit = group == 64 ? 5792 : 8191;
  for (std::int64_t g = 0; g < k; g += group) {
    float most = 0;
    for (std::int64_t i = g; i < std::min(g + group, k); ++i) most = std::max(most, std::abs(x[i]));
    const float inverse = most > 0 ? limit / most : 0;
    out.scale.push_back(most * (1 / limit));
    for (std::int64_t i = g; i < g + group; ++i)
      out.q.push_back(i < k ? static_cast<int>(std::nearbyint(x[i] * inverse)) : 0);
  }
  return out;
}

// Group by group: the exact sum, times the scale of x, times the scale of W on top of the sum.
float in_order(const Numbers& x, const Numbers& w) {
  const bool fused = std::string(cpu_isa()).rfind("portable", 0) != 0;
  const std::size_t group = x.q.size() / x.scale.size();
  float sum = 0;
  for (std::size_t g = 0; g < x.scale.size(); ++g) {
    std::int32_t products = 0;
    for (std::size_t i = g * group; i < (g + 1) * group; ++i) products += x.q[i] * w.q[i];
    const float part = static_cast<float>(products) * x.scale[g];
    const float product = part * w.scale[g];
    sum = fused ? std::fma(part, w.scale[g], sum) : product + sum;
  }
  return sum;
}

LinearWeight pack(const Tensor& m) {
  Stream s(1);
  return pack_linear(s, std::span(&m, 1), WeightFormat::i16);
}

}  // namespace

TEST_CASE("i16 linear equals the scalar sum in its order bit for bit") {
  each_isa([](Stream& s) {
    Random r;
    std::vector<int> counts = {64, 100};
    for (int rows = 1; rows <= 30; ++rows) counts.push_back(rows);
    for (const int k : {1, 31, 32, 64, 96, 200, 256, 600, 1088})
      for (const int n : {1, 16, 75}) {
        const Tensor m = r.tensor({n, k}), x = r.tensor({100, k});
        LinearWeight w = pack(m);
        if (n % 2) w.bias = r.tensor({n});
        Tensor want = filled({100, n}, 0);
        for (int t = 0; t < 100; ++t)
          for (int j = 0; j < n; ++j) {
            const float sum =
                in_order(numbers_of(x.f32() + t * k, k), numbers_of(m.f32() + j * k, k));
            want.f32()[t * n + j] = n % 2 ? sum + w.bias.f32()[j] : sum;
          }
        for (const int rows : counts) {
          Tensor out = filled({rows, n}, NAN);
          ops::linear(s, x.rows(0, rows), w, out);
          CAPTURE(k);
          CAPTURE(n);
          CAPTURE(rows);
          CHECK(same_bits(out, want.rows(0, rows)));
        }
      }
  });
}

// A factor is off by half a step of its group's scale at most, so a product of x and w by
// (|x| step_w + |w| step_x) / 2, and f32 sums k / 32 groups. That is below what bf16 factors lose
// unless a group is ruled by one element some 30 times the others.
TEST_CASE("i16 linear is within half a step of each factor of the exact product") {
  each_isa([](Stream& s) {
    Random r;
    for (const float outlier : {1.0f, 1000.0f}) {
      const int k = 512, n = 40;
      Tensor m = r.tensor({n, k}), x = r.tensor({5, k}), out = filled({5, n}, NAN);
      for (int t = 0; t < 5; ++t) x.f32()[t * k + 7] *= outlier;
      ops::linear(s, x, pack(m), out);
      for (int t = 0; t < 5; ++t)
        for (int j = 0; j < n; ++j) {
          const float *a = x.f32() + t * k, *b = m.f32() + j * k;
          const Numbers na = numbers_of(a, k), nb = numbers_of(b, k);
          double want = 0, most = 0, size = 0;
          for (int i = 0; i < k; ++i) {
            const double va = a[i], vb = b[i], sa = na.scale[i / 64], sb = nb.scale[i / 64];
            want += va * vb;
            most += 0.505 * (std::abs(va) * sb + std::abs(vb) * sa + sa * sb);
            size += std::abs(va * vb);
          }
          CHECK(std::abs(out.f32()[t * n + j] - want) < most + 1e-6 * size);
        }
    }
  });
}

TEST_CASE("the largest numbers of a group do not overflow its sum") {
  each_isa([](Stream& s) {
    for (const int k : {96, 128}) {
      const Tensor m = filled({16, k}, -3.0f), x = filled({7, k}, 5.0f);
      Tensor out = filled({7, 16}, NAN);
      ops::linear(s, x, pack(m), out);
      for (int i = 0; i < 7 * 16; ++i) CHECK(out.f32()[i] == doctest::Approx(-15.0 * k));
    }
  });
}

TEST_CASE("what is no finite number stays in its row, and zeros are zeros") {
  each_isa([](Stream& s) {
    Random r;
    for (const float strange : {NAN, INFINITY, -INFINITY}) {
      Tensor m = r.tensor({20, 70}), x = r.tensor({9, 70}), out = filled({9, 20}, 0);
      x.f32()[4 * 70 + 69] = strange;
      m.f32()[11 * 70 + 3] = strange;
      for (int i = 0; i < 70; ++i) x.f32()[6 * 70 + i] = 0;
      ops::linear(s, x, pack(m), out);
      for (int t = 0; t < 9; ++t)
        for (int j = 0; j < 20; ++j) {
          CAPTURE(t);
          CAPTURE(j);
          CHECK(std::isnan(out.f32()[t * 20 + j]) == (t == 4 || j == 11));
          if (t == 6 && j != 11) CHECK(out.f32()[t * 20 + j] == 0);
        }
    }
  });
}

TEST_CASE("what is nearly zero does not overflow") {
  each_isa([](Stream& s) {
    for (const float tiny : {1e-45f, 1e-40f, 1e-37f, 1e-30f}) {
      const Tensor m = filled({16, 64}, 1.0f), x = filled({7, 64}, tiny);
      Tensor out = filled({7, 16}, NAN);
      ops::linear(s, x, pack(m), out);
      for (int i = 0; i < 7 * 16; ++i) CHECK(std::abs(out.f32()[i] - 64 * tiny) < 1e-29f);
    }
  });
}

TEST_CASE("a row's i16 result does not depend on the batch or the threads") {
  each_isa([](Stream& one) {
    Stream two(2);
    Random r;
    for (const auto& [n, rows] : {std::pair{700, 64}, std::pair{24, 1500}}) {
      const LinearWeight w = pack(r.tensor({n, 256}));
      const Tensor x = r.tensor({rows, 256});
      Tensor all = filled({rows, n}, 0), split = filled({rows, n}, NAN);
      ops::linear(one, x, w, all);
      ops::linear(two, x, w, split);
      CHECK(same_bits(all, split));
      for (const int some : {1, 2, 3, 5, 7, 16, 17, 40}) {
        Tensor out = filled({some, n}, 0);
        ops::linear(two, x.rows(11, 11 + some), w, out);
        CHECK(same_bits(out, all.rows(11, 11 + some)));
      }
    }
  });
}

TEST_CASE("selected and embedded rows of an i16 weight are those of the matrix") {
  each_isa([](Stream& s) {
    Random r;
    const Tensor m = r.tensor({100, 90}), x = r.tensor({3, 90});
    LinearWeight w = pack(m);
    w.bias = r.tensor({100});
    const std::vector<std::int32_t> ids = {3, 99, 16, 0, 98};
    Tensor all = filled({3, 100}, 0), some = filled({3, 5}, 0), rows = filled({5, 90}, NAN);
    ops::linear(s, x, w, all);
    ops::linear(s, x, select_rows(s, w, ids), some);
    for (int t = 0; t < 3; ++t)
      for (int j = 0; j < 5; ++j) CHECK(some.f32()[t * 5 + j] == all.f32()[t * 100 + ids[j]]);
    ops::embedding(s, ints(ids), w, rows);
    for (int j = 0; j < 5; ++j) {
      const Numbers row = numbers_of(m.f32() + ids[j] * 90, 90);
      for (int i = 0; i < 90; ++i)
        CHECK(rows.f32()[j * 90 + i] == row.scale[i / 32] * static_cast<float>(row.q[i]));
    }
  });
}

TEST_CASE("sources of every float type pack to i16, stacked") {
  Stream s(1);
  Random r;
  const Tensor a = r.tensor({5, 40}), b = r.tensor({7, 40});
  Tensor both = Tensor::empty({12, 40}, DType::f32), half = Tensor::empty({7, 40}, DType::bf16);
  std::copy_n(a.f32(), a.numel(), both.f32());
  for (std::int64_t i = 0; i < b.numel(); ++i) {
    half.data<bf16>()[i] = bf16(b.f32()[i]);
    both.f32()[a.numel() + i] = static_cast<float>(half.data<bf16>()[i]);
  }
  const std::array parts{a, half};
  const LinearWeight stacked = pack_linear(s, parts, WeightFormat::i16), whole = pack(both);
  CHECK(stacked.group == 32);
  CHECK(!std::memcmp(stacked.packed.data<std::byte>(), whole.packed.data<std::byte>(),
                     whole.nbytes()));
}
