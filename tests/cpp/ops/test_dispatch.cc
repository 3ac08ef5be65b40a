#include "common.h"

using namespace dream_r;

TEST_CASE("every table is complete and a scope selects it for its thread") {
  const std::string before = cpu_isa();
  CHECK(cpu_isas().front() == "portable");
  test::each_isa([](Stream&) {
    const auto& k = cpu::kernels();
    CHECK(std::string(cpu_isa()) == k.name);
    CHECK_UNARY(k.rms_norm && k.add_rms_norm && k.layer_norm && k.silu_mul && k.gelu_exact &&
                k.gelu_tanh && k.add && k.mix4 && k.linear_f32.run && k.linear_bf16.run &&
                k.linear_bf16.pack && k.linear_w4.run && k.qk_norm_rope && k.attention_f32 &&
                k.attention_bf16 && k.pack_segment && k.segment_attention && k.max && k.argmax &&
                k.exp_sum && k.exp_of);
  });
  CHECK(before == cpu_isa());
}

TEST_CASE("the vector exponential") {
  test::each_isa([](Stream&) {
    const auto& k = cpu::kernels();
    double worst = 0;
    for (double x = -87.3; x < 88.3; x += 0.0137) {
      const float f = static_cast<float>(x);
      float out;
      k.exp_of(&f, 1, 0.0f, &out);
      worst = std::max(worst, std::abs(out / std::exp(static_cast<double>(f)) - 1));
    }
    CHECK(worst < 2e-7);
    const float edge[] = {-1e30f, -88.0f, 0.0f, -INFINITY, NAN};
    float out[5];
    k.exp_of(edge, 5, 0.0f, out);
    CHECK(out[0] == 0.0f);
    CHECK(out[1] < 1e-37f);
    CHECK(out[2] == 1.0f);
    CHECK(out[3] == 0.0f);
    CHECK(out[4] == 0.0f);  // NaN logits count as -inf
  });
}

// Row elements as floats, of either width.
std::vector<float> packed(const cpu::LinearKernel& kernel, const std::vector<float>& x) {
  const auto k = static_cast<std::int64_t>(x.size());
  const std::int64_t padded = (k + kernel.x_multiple - 1) / kernel.x_multiple * kernel.x_multiple;
  std::vector<float> out(static_cast<std::size_t>(padded), NAN);
  if (kernel.x_bytes == 4) {
    kernel.pack(x.data(), {k, padded, 0}, out.data());
    return out;
  }
  std::vector<bf16> half(out.size());
  kernel.pack(x.data(), {k, padded, 0}, half.data());
  for (std::size_t i = 0; i < out.size(); ++i) out[i] = static_cast<float>(half[i]);
  return out;
}

TEST_CASE("rows for bf16 weights are rounded as scalars are and padded with zeros") {
  test::each_linear([](Stream&) {
    const auto& kernel = cpu::kernels().linear_bf16;
    test::Random r;
    for (const int n : {1, 15, 16, 33, 64}) {
      std::vector<float> x;
      for (int i = 0; i < n; ++i) x.push_back(r.normal() * 100.0f);
      x[0] = 1.0f + 0x1p-8f;
      if (n > 2) x[1] = -INFINITY, x[2] = 1e-40f;
      auto out = packed(kernel, x);
      x.resize(out.size(), 0.0f);
      for (std::size_t i = 0; i < x.size(); ++i) CHECK(out[i] == static_cast<float>(bf16(x[i])));
      x.assign(static_cast<std::size_t>(n), std::bit_cast<float>(0x7f800001u));
      CHECK(std::isnan(packed(kernel, x)[0]));
    }
  });
}
