#include "common.h"

using namespace dream_r;
using namespace dream_r::test;

TEST_CASE("mrope_table takes each pair's angle from its axis") {
  each_device([](Stream& one) {
    const auto second = another(one);
    Stream& s = *second;
    const int pairs = 12;
    const std::array<int, 3> sections = {6, 3, 3};
    std::vector<float> inv_freq;
    for (int i = 0; i < pairs; ++i) inv_freq.push_back(std::pow(5e6f, -2.0f * i / 24));
    Tensor positions = Tensor::empty({40, 3}, DType::i32);
    Random r;
    for (int i = 0; i < 120; ++i) positions.data<int>()[i] = r.below(i < 60 ? 50 : 200000);
    Tensor cos = filled({40, pairs}, 0), sin = filled({40, pairs}, 0);
    const auto check = [&](ops::MropeLayout layout, const std::vector<int>& axis) {
      run(s, ops::mrope_table, positions, inv_freq, layout, sections, cos, sin);
      std::vector<double> want_cos, want_sin;
      for (int t = 0; t < 40; ++t)
        for (int i = 0; i < pairs; ++i) {
          const auto at = static_cast<float>(positions.data<int>()[t * 3 + axis[i]]);
          const float angle = at * inv_freq[i];
          want_cos.push_back(std::cos(static_cast<double>(angle)));
          want_sin.push_back(std::sin(static_cast<double>(angle)));
        }
      CHECK(error(cos, want_cos) < 1e-7);
      CHECK(error(sin, want_sin) < 1e-7);
    };
    using enum ops::MropeLayout;
    // Height owns pairs 1, 4, 7; width owns 2, 5, 8; time the rest.
    check(interleaved, {0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 0, 0});
    check(chunked, {0, 0, 0, 0, 0, 0, 1, 1, 1, 2, 2, 2});
    CHECK(rejects("mrope_table", [&] {
      run(s, ops::mrope_table, positions, inv_freq, chunked, sections, cos, filled({40, 11}, 0));
    }));
  });
}

namespace {

std::vector<double> rope_oracle(const Tensor& qkv, ops::Heads h, const Tensor& qn, const Tensor& kn,
                                const Tensor& cos, const Tensor& sin) {
  const auto rows = qkv.dim(0), width = qkv.dim(1);
  const int half = h.dim / 2;
  std::vector<double> out(qkv.f32(), qkv.f32() + qkv.numel());
  for (std::int64_t t = 0; t < rows; ++t)
    for (int head = 0; head < h.q + h.kv; ++head) {
      double* x = out.data() + t * width + head * h.dim;
      const Tensor& w = head < h.q ? qn : kn;
      double ss = 0;
      for (int i = 0; i < h.dim; ++i) ss += x[i] * x[i];
      if (w.defined())
        for (int i = 0; i < h.dim; ++i) x[i] = x[i] / std::sqrt(ss / h.dim + 1e-6) * w.f32()[i];
      for (int i = 0; i < half; ++i) {
        const double a = x[i], b = x[half + i], c = cos.f32()[t * half + i],
                     n = sin.f32()[t * half + i];
        x[i] = a * c - b * n;
        x[half + i] = b * c + a * n;
      }
    }
  return out;
}

}  // namespace

TEST_CASE("qk_norm_rope norms and turns queries and keys, not values") {
  each_device([](Stream& s) {
    Random r;
    for (const int dim : {16, 32, 48, 128}) {
      const ops::Heads h{4, 2, dim};
      const Tensor before = r.tensor({9, 8 * dim}), cos = r.tensor({9, dim / 2}),
                   sin = r.tensor({9, dim / 2});
      for (const bool norm : {true, false}) {
        const Tensor qn = norm ? r.tensor({dim}) : Tensor(), kn = norm ? r.tensor({dim}) : Tensor();
        Tensor x = copy(before);
        run(s, ops::qk_norm_rope, x, h, qn, kn, 1e-6f, cos, sin);
        CHECK(error(x, rope_oracle(before, h, qn, kn, cos, sin)) < 2e-5);
        Tensor row = copy(before.rows(4, 5));
        run(s, ops::qk_norm_rope, row, h, qn, kn, 1e-6f, cos.rows(4, 5), sin.rows(4, 5));
        CHECK(same_bits(row, x.rows(4, 5)));
      }
      Tensor x = copy(before);
      CHECK(rejects("qk_norm_rope",
                    [&] { run(s, ops::qk_norm_rope, x, {4, 1, dim}, {}, {}, 1e-6f, cos, sin); }));
      CHECK(rejects("qk_norm_rope",
                    [&] { run(s, ops::qk_norm_rope, x, h, cos, {}, 1e-6f, cos, sin); }));
    }
  });
}

TEST_CASE("rotate_half turns queries and keys of any even width") {
  each_device([](Stream& one) {
    Random r;
    for (const int dim : {8, 72, 80}) {
      const int heads = 3;
      const Tensor before = r.tensor({21, 3 * heads * dim}), cos = r.tensor({21, dim / 2}),
                   sin = r.tensor({21, dim / 2});
      // As heads without norms: 3 query and 3 key heads, 3 value heads untouched.
      const auto want = rope_oracle(before, {heads, heads, dim}, {}, {}, cos, sin);
      const auto second = another(one);
      Stream& two = *second;
      Tensor x = copy(before), y = copy(before);
      run(one, ops::rotate_half, x, heads, dim, cos, sin);
      run(two, ops::rotate_half, y, heads, dim, cos, sin);
      CHECK(error(x, want) < 2e-6);
      CHECK(same_bits(x, y));
      CHECK(
          rejects("rotate_half", [&] { run(one, ops::rotate_half, x, heads + 1, dim, cos, sin); }));
      CHECK(
          rejects("rotate_half", [&] { run(one, ops::rotate_half, x, heads, dim, cos, before); }));
    }
  });
}

namespace {

// Slots of `rows` tokens: neighbours in a block and over its end, then alone.
Tensor some_slots(int rows) {
  std::vector<std::int32_t> slots;
  for (int t = 0; t < rows; ++t) slots.push_back(t < 20 ? 29 + t : 80 + 5 * t);
  return ints(slots);
}

Tensor random_cache(Random& r, Shape shape, DType dtype) {
  Tensor t = Tensor::empty(shape, dtype);
  for (std::int64_t i = 0; i < t.numel(); ++i)
    if (dtype == DType::f32)
      t.f32()[i] = r.normal();
    else if (dtype == DType::f16)
      t.data<f16>()[i] = f16(r.normal());
    else
      t.data<bf16>()[i] = bf16(r.normal());
  return t;
}

}  // namespace

TEST_CASE("qk_norm_rope_write is qk_norm_rope and kv_write") {
  each_device([](Stream& s) {
    Random r;
    const ops::Heads h{4, 2, 48};
    for (const DType dtype : element_types(s))
      for (const int rows : {1, 2, 16, 27}) {
        const std::int64_t queries = std::int64_t{h.q} * h.dim, keys = std::int64_t{h.kv} * h.dim;
        const Tensor qkv = r.tensor({rows, queries + 2 * keys}), slot = some_slots(rows);
        const Tensor cos = r.tensor({rows, 24}), sin = r.tensor({rows, 24}), norm = r.tensor({48});
        const Tensor k = random_cache(r, {20, 2, 48, 16}, dtype),
                     v = random_cache(r, {20, 2, 16, 48}, dtype);
        for (const Tensor& q_norm : {norm, Tensor()}) {
          const ops::KvLayer one{copy(k), copy(v)}, two{copy(k), copy(v)};
          Tensor x = copy(qkv), y = copy(qkv);
          run(s, ops::qk_norm_rope, x, h, q_norm, norm, 1e-6f, cos, sin);
          run(s, ops::kv_write, x, h, slot, one);
          run(s, ops::qk_norm_rope_write, y, h, q_norm, norm, 1e-6f, cos, sin, slot, two);
          CHECK(same_bits(one.k, two.k));
          CHECK(same_bits(one.v, two.v));
          for (int t = 0; t < rows; ++t) {
            const float *from = x.f32() + t * x.dim(1), *to = y.f32() + t * x.dim(1);
            CHECK(std::memcmp(from, to, queries * sizeof(float)) == 0);
            CHECK(std::memcmp(from + queries + keys, to + queries + keys, keys * sizeof(float)) ==
                  0);
          }
        }
      }
    Tensor x = r.tensor({1, 8 * 48}), cos = r.tensor({1, 24});
    const ops::KvLayer layer{filled({2, 2, 48, 16}, 0), filled({2, 2, 16, 48}, 0)};
    const auto refuses = [&](ops::Heads heads, const Tensor& sin, const Tensor& slot) {
      return rejects("qk_norm_rope_write", [&] {
        run(s, ops::qk_norm_rope_write, x, heads, {}, {}, 1e-6f, cos, sin, slot, layer);
      });
    };
    CHECK(refuses(h, cos, ints({0, 1})));
    CHECK(refuses(h, filled({1, 23}, 0), ints({0})));
    CHECK(refuses({4, 1, 48}, cos, ints({0})));
  });
}
