#include "common.h"

using namespace dream_r;
using namespace dream_r::test;

namespace {

std::vector<double> rms_oracle(const Tensor& x, const Tensor& w, double eps) {
  const auto rows = x.dim(0), h = x.dim(1);
  std::vector<double> out;
  for (std::int64_t t = 0; t < rows; ++t) {
    double ss = 0;
    for (std::int64_t i = 0; i < h; ++i) ss += std::pow(x.f32()[t * h + i], 2.0);
    for (std::int64_t i = 0; i < h; ++i)
      out.push_back(x.f32()[t * h + i] / std::sqrt(ss / h + eps) * w.f32()[i]);
  }
  return out;
}

double silu(double x) { return x / (1 + std::exp(-x)); }

}  // namespace

TEST_CASE("rms_norm and add_rms_norm") {
  each_device([](Stream& s) {
    Random r;
    for (const int h : {1, 5, 16, 33, 96, 100, 256, 1027, 2501, 8200}) {
      const Tensor x = r.tensor({3, h}, 3.0f), w = r.tensor({h}), delta = r.tensor({3, h});
      Tensor out = filled({3, h}, 0);
      run(s, ops::rms_norm, x, w, 1e-6f, out);
      CHECK(error(out, rms_oracle(x, w, 1e-6)) < 5e-6);
      Tensor in_place = copy(x);
      run(s, ops::rms_norm, in_place, w, 1e-6f, in_place);
      CHECK(same_bits(in_place, out));
      Tensor residual = copy(x), sum = copy(x), fused = filled({3, h}, 0);
      run(s, ops::add, sum, delta);
      for (int i = 0; i < 3 * h; ++i) CHECK(sum.f32()[i] == x.f32()[i] + delta.f32()[i]);
      run(s, ops::add_rms_norm, residual, delta, w, 1e-6f, fused);
      CHECK(same_bits(residual, sum));
      run(s, ops::rms_norm, sum, w, 1e-6f, out);
      CHECK(same_bits(fused, out));
    }
  });
}

TEST_CASE("layer_norm") {
  each_device([](Stream& s) {
    Random r;
    for (const int h : {1, 7, 16, 64, 72, 1152, 1155}) {
      Tensor x = r.tensor({2, h});
      for (int i = 0; i < h; ++i) x.f32()[i] += 10.0f;  // a mean that a naive variance would feel
      const Tensor w = r.tensor({h}), b = r.tensor({h});
      Tensor out = filled({2, h}, 0);
      run(s, ops::layer_norm, x, w, b, 1e-6f, out);
      std::vector<double> want;
      for (int t = 0; t < 2; ++t) {
        double mean = 0, var = 0;
        for (int i = 0; i < h; ++i) mean += x.f32()[t * h + i] / static_cast<double>(h);
        for (int i = 0; i < h; ++i) var += std::pow(x.f32()[t * h + i] - mean, 2.0) / h;
        for (int i = 0; i < h; ++i)
          want.push_back((x.f32()[t * h + i] - mean) / std::sqrt(var + 1e-6) * w.f32()[i] +
                         b.f32()[i]);
      }
      CHECK(error(out, want) < (h == 1 ? 1e-2 : 1e-5));  // h = 1 divides rounding by sqrt(eps)
    }
  });
}

TEST_CASE("silu_mul and both gelus") {
  each_device([](Stream& s) {
    Random r;
    for (const int f : {1, 16, 37, 768}) {
      const Tensor gate_up = r.tensor({3, 2 * f}, 4.0f);
      Tensor out = filled({3, f}, 0);
      run(s, ops::silu_mul, gate_up, out);
      std::vector<double> want, erf, tanh;
      for (int t = 0; t < 3; ++t)
        for (int i = 0; i < f; ++i)
          want.push_back(silu(gate_up.f32()[t * 2 * f + i]) * gate_up.f32()[t * 2 * f + f + i]);
      CHECK(error(out, want) < 3e-5);
      for (int i = 0; i < 6 * f; ++i) {
        const double x = gate_up.f32()[i];
        erf.push_back(0.5 * x * (1 + std::erf(x / std::sqrt(2.0))));
        tanh.push_back(0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x))));
      }
      Tensor x = copy(gate_up);
      run(s, ops::gelu, x, ops::Gelu::exact);
      CHECK(error(x, erf) < 2e-6);
      x = copy(gate_up);
      run(s, ops::gelu, x, ops::Gelu::tanh);
      CHECK(error(x, tanh) < 2e-6);
    }
  });
}

TEST_CASE("activations saturate without NaN") {
  each_device([](Stream& s) {
    Tensor gate_up = filled({1, 8}, 1.0f);
    const float extreme[] = {-200.0f, 200.0f, -3e38f, 3e38f};
    std::memcpy(gate_up.f32(), extreme, sizeof extreme);
    Tensor out = filled({1, 4}, 0);
    run(s, ops::silu_mul, gate_up, out);
    CHECK(std::abs(out.f32()[0]) < 1e-30f);
    CHECK(out.f32()[1] == 200.0f);
    CHECK(std::abs(out.f32()[2]) <= 1.0f);
    CHECK(out.f32()[3] == 3e38f);
  });
}

TEST_CASE("rows do not depend on their neighbours or on the thread count") {
  each_device([](Stream& one) {
    const auto second = another(one);
    Stream& two = *second;
    Random r;
    const Tensor x = r.tensor({300, 200}), w = r.tensor({200}), b = r.tensor({200});
    Tensor all = filled({300, 200}, 0), split = filled({300, 200}, 0), row = filled({1, 200}, 0);
    run(one, ops::rms_norm, x, w, 1e-6f, all);
    run(two, ops::rms_norm, x, w, 1e-6f, split);
    CHECK(same_bits(all, split));
    run(one, ops::rms_norm, x.rows(37, 38), w, 1e-6f, row);
    CHECK(same_bits(row, all.rows(37, 38)));
    run(two, ops::layer_norm, x, w, b, 1e-6f, all);
    run(one, ops::layer_norm, x.rows(37, 38), w, b, 1e-6f, row);
    CHECK(same_bits(row, all.rows(37, 38)));
    Tensor g1 = copy(x), g2 = copy(x);
    run(one, ops::gelu, g1, ops::Gelu::exact);
    run(two, ops::gelu, g2, ops::Gelu::exact);
    CHECK(same_bits(g1, g2));
  });
}

TEST_CASE("norms reject wrong shapes") {
  Stream s(1);
  Random r;
  const Tensor x = r.tensor({3, 8}), w = r.tensor({8}), short_w = r.tensor({7});
  Tensor out = filled({3, 8}, 0), wrong = filled({2, 8}, 0);
  CHECK(rejects("rms_norm", [&] { run(s, ops::rms_norm, x, short_w, 1e-6f, out); }));
  CHECK(rejects("rms_norm", [&] { run(s, ops::rms_norm, x, w, 1e-6f, wrong); }));
  CHECK(rejects("add_rms_norm", [&] { run(s, ops::add_rms_norm, wrong, x, w, 1e-6f, wrong); }));
  CHECK(rejects("layer_norm", [&] { run(s, ops::layer_norm, x, w, short_w, 1e-6f, out); }));
  CHECK(rejects("silu_mul", [&] { run(s, ops::silu_mul, x, out); }));
  CHECK(rejects("add", [&] { run(s, ops::add, out, wrong); }));
  CHECK(rejects("gelu", [&] { run(s, ops::gelu, ints({1, 2}), ops::Gelu::exact); }));
}
