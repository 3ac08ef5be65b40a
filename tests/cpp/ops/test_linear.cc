#include "common.h"

using namespace dream_r;
using namespace dream_r::test;

namespace {

std::vector<double> oracle(const Tensor& x, const Tensor& w, const Tensor& bias, DType type) {
  const auto rows = x.dim(0), k = x.dim(1), n = w.dim(0);
  std::vector<double> out;
  for (std::int64_t t = 0; t < rows; ++t)
    for (std::int64_t j = 0; j < n; ++j) {
      double sum = bias.defined() ? bias.f32()[j] : 0;
      for (std::int64_t i = 0; i < k; ++i)
        sum += static_cast<double>(kept(x.f32()[t * k + i], type)) * kept(w.f32()[j * k + i], type);
      out.push_back(sum);
    }
  return out;
}

LinearWeight pack(const Tensor& w, DType type) {
  Stream s(1);
  return pack_linear(s, std::span(&w, 1), format_of(type));
}

}  // namespace

TEST_CASE("linear against the double-precision product") {
  each_linear([](Stream& s) {
    Random r;
    for (const DType type : element_types(s))
      for (const int k : {1, 2, 7, 64, 129})
        for (const int n : {1, 16, 35, 80, 144})
          for (const int rows : {1, 2, 3, 4, 5, 6, 7, 13, 17, 33, 80}) {
            const Tensor x = r.tensor({rows, k}), m = r.tensor({n, k});
            LinearWeight w = pack(m, type);
            if (n % 2) w.bias = r.tensor({n});
            Tensor out = filled({rows, n}, NAN);
            run(s, ops::linear, x, w, out);
            CAPTURE(k);
            CAPTURE(n);
            CAPTURE(rows);
            CHECK(error(out, oracle(x, m, w.bias, type)) < 2e-5 * std::sqrt(k));
          }
  });
}

TEST_CASE("a row's result does not depend on the batch or the threads") {
  each_linear([](Stream& one) {
    Stream team(2);
    Stream& two = one.device().on_cuda() ? one : team;
    Random r;
    for (const DType type : element_types(one)) {
      // 700 x 330 is large enough for 64 rows to be split between threads.
      const Tensor x = r.tensor({64, 330}), m = r.tensor({700, 330});
      const LinearWeight w = pack(m, type);
      Tensor all = filled({64, 700}, 0), split = filled({64, 700}, 0);
      run(one, ops::linear, x, w, all);
      run(two, ops::linear, x, w, split);
      CHECK(same_bits(all, split));
      for (const int rows : {1, 2, 3, 5, 7, 16, 17, 31, 40}) {
        Tensor some = filled({rows, 700}, 0);
        run(two, ops::linear, x.rows(11, 11 + rows), w, some);
        CHECK(same_bits(some, all.rows(11, 11 + rows)));
      }
    }
  });
}

TEST_CASE("a tall narrow product is split over rows and stays the same") {
  each_linear([](Stream& one) {
    Stream team(2);
    Stream& two = one.device().on_cuda() ? one : team;
    Random r;
    for (const DType type : element_types(one)) {
      const Tensor x = r.tensor({1500, 70}), m = r.tensor({24, 70});
      const LinearWeight w = pack(m, type);
      Tensor all = filled({1500, 24}, 0), split = filled({1500, 24}, NAN);
      run(one, ops::linear, x, w, all);
      run(two, ops::linear, x, w, split);
      CHECK(same_bits(all, split));
      Tensor row = filled({1, 24}, 0);
      run(one, ops::linear, x.rows(1234, 1235), w, row);
      CHECK(same_bits(row, all.rows(1234, 1235)));
    }
  });
}

TEST_CASE("selected rows give the same bits as the whole matrix") {
  each_linear([](Stream& s) {
    Random r;
    const std::vector<std::int32_t> ids = {3, 99, 16, 0, 98};
    for (const DType type : element_types(s))
      for (const int k : {5, 128, 1024}) {
        const Tensor x = r.tensor({3, k}), m = r.tensor({100, k});
        LinearWeight w = pack(m, type);
        w.bias = r.tensor({100});
        Tensor all = filled({3, 100}, 0), some = filled({3, 5}, 0);
        run(s, ops::linear, x, w, all);
        const LinearWeight few = select_rows(s, copy_to(s, w, s.device()), ids);
        CHECK(few.whole_n() == 100);
        run(s, ops::linear, x, few, some);
        for (int t = 0; t < 3; ++t)
          for (int j = 0; j < 5; ++j) CHECK(some.f32()[t * 5 + j] == all.f32()[t * 100 + ids[j]]);
      }
  });
}

TEST_CASE("grouped_linear gives every expert its own rows") {
  each_linear([](Stream& s) {
    Random r;
    const Tensor begin = ints({0, 0, 3, 4, 44, 44}), x = r.tensor({44, 40});
    for (const DType type : element_types(s)) {
      std::vector<LinearWeight> experts;
      Tensor out = filled({44, 20}, NAN), want = filled({44, 20}, NAN);
      for (int e = 0; e < 5; ++e) {
        const auto from = begin.data<std::int32_t>()[e], to = begin.data<std::int32_t>()[e + 1];
        experts.push_back(copy_to(s, pack(r.tensor({20, 40}), type), s.device()));
        if (from < to) run(s, ops::linear, x.rows(from, to), experts.back(), want.rows(from, to));
      }
      const std::span<const LinearWeight> all = experts;
      run(s, ops::grouped_linear, x, all, begin, out);
      CHECK(same_bits(out, want));
    }
  });
}

TEST_CASE("grouped_linear rejects wrong arguments") {
  Stream s(1);
  Random r;
  const Tensor x = r.tensor({3, 8});
  Tensor out = filled({3, 4}, 0);
  LinearWeight a = pack(r.tensor({4, 8}), DType::f32), b = a;
  const auto with = [&](std::vector<LinearWeight> w, std::vector<std::int32_t> begin) {
    return rejects("grouped_linear", [&] { ops::grouped_linear(s, x, w, ints(begin), out); });
  };
  CHECK(!with({a, b}, {0, 1, 3}));
  CHECK(with({}, {0}));
  CHECK(with({a, b}, {0, 3}));
  CHECK(with({a, b}, {0, 1, 2}));
  CHECK(with({a, pack(r.tensor({4, 8}), DType::bf16)}, {0, 1, 3}));
  b.bias = r.tensor({4});
  CHECK(with({a, b}, {0, 1, 3}));
}

TEST_CASE("stacked matrices of mixed types pack like one") {
  Stream s(2);
  Random r;
  const Tensor a = r.tensor({10, 9}), b = r.tensor({23, 9});
  Tensor a16 = Tensor::empty({10, 9}, DType::bf16), both = filled({33, 9}, 0);
  for (int i = 0; i < 90; ++i) {
    a16.data<bf16>()[i] = bf16(a.f32()[i]);
    both.f32()[i] = static_cast<float>(bf16(a.f32()[i]));
  }
  for (int i = 0; i < 23 * 9; ++i) both.f32()[90 + i] = b.f32()[i];
  const Tensor parts[] = {a16, b};
  for (const DType type : {DType::f32, DType::bf16, DType::f16})
    CHECK(same_bits(pack_linear(s, parts, format_of(type)).packed, pack(both, type).packed));
  Tensor half = Tensor::empty({1, 2}, DType::f16);
  half.data<std::uint16_t>()[0] = 0x3c00;
  half.data<std::uint16_t>()[1] = 0xc000;
  const LinearWeight w = pack(half, DType::f32);
  CHECK(w.packed.f32()[0] == 1.0f);
  CHECK(w.packed.f32()[16] == -2.0f);
  CHECK(w.packed.f32()[1] == 0.0f);  // padding
}

TEST_CASE("weights of f16 keep their bits in f16, others are rounded into its range") {
  Tensor half = Tensor::empty({1, 3}, DType::f16), wide = Tensor::empty({1, 3}, DType::bf16);
  const std::uint16_t bits[] = {0x7c00, 0x8001, 0x3555};  // infinity, the smallest, a third
  std::memcpy(half.data<std::byte>(), bits, sizeof bits);
  const float values[] = {-1e30f, 1e-9f, 3.0f};
  for (int i = 0; i < 3; ++i) wide.data<bf16>()[i] = bf16(values[i]);
  const auto element = [](const LinearWeight& w, int i) {
    return w.packed.data<std::uint16_t>()[i / 2 * 32 + i % 2];
  };
  const LinearWeight same = pack(half, DType::f16), rounded = pack(wide, DType::f16);
  for (int i = 0; i < 3; ++i) CHECK(element(same, i) == bits[i]);
  CHECK(element(same, 3) == 0);  // padding
  CHECK(element(rounded, 0) == 0xfbff);
  CHECK(element(rounded, 1) == 0);
  CHECK(element(rounded, 2) == 0x4200);
}

TEST_CASE("x beyond the range of f16 is its largest number") {
  if (!cuda_is_here()) return;
  Stream s(cuda_device());
  Random r;
  for (const int rows : {1, 40})
    for (const int k : {64, 70}) {
      Tensor x = r.tensor({rows, k}), m = r.tensor({20, k});
      x.f32()[3] = 1e9f, x.f32()[7] = -70000.0f;
      Tensor out = filled({rows, 20}, NAN);
      run(s, ops::linear, x, pack(m, DType::f16), out);
      const auto want = oracle(x, m, {}, DType::f16);
      // Roundings of f32 sums in which 65504 times a weight stands.
      CHECK(error(out, want) < 65504 * 2e-6);
    }
}

TEST_CASE("linear on the CPU refuses f16 in one line") {
  Stream s(1);
  Random r;
  Tensor out = filled({2, 4}, 0);
  const LinearWeight w = pack(r.tensor({4, 8}), DType::f16);
  try {
    ops::linear(s, r.tensor({2, 8}), w, out);
    FAIL("f16 was taken");
  } catch (const Error& e) {
    CHECK(std::string(e.what()) == "linear: f16 is for CUDA devices: use bf16 or f32 on the CPU");
  }
}

TEST_CASE("linear rejects wrong shapes") {
  Stream s(1);
  Random r;
  const Tensor x = r.tensor({2, 8}), m = r.tensor({4, 8}), other = r.tensor({4, 9});
  const LinearWeight w = pack(m, DType::f32);
  Tensor out = filled({2, 4}, 0), wrong = filled({2, 5}, 0);
  CHECK(rejects("linear", [&] { ops::linear(s, r.tensor({2, 7}), w, out); }));
  CHECK(rejects("linear", [&] { ops::linear(s, x, w, wrong); }));
  CHECK(rejects("linear", [&] { ops::linear(s, x, LinearWeight{}, out); }));
  const Tensor parts[] = {m, other};
  CHECK(rejects("pack_linear", [&] { pack_linear(s, parts, WeightFormat::f32); }));
  CHECK(rejects("pack_linear", [&] { pack_linear(s, {}, WeightFormat::f32); }));
  const std::vector<std::int32_t> bad = {4};
  CHECK(rejects("select_rows", [&] { select_rows(s, w, bad); }));
  ops::linear(s, Tensor::empty({0, 8}, DType::f32), w, Tensor::empty({0, 4}, DType::f32));
}
