// The ops of a decoded token between its products, one row and a few, and sampling. They move
// little: what counts is their time beside that of an empty event pair.
#include "bench_cuda.h"
#include "ops/ops.h"

using namespace dream_r;
using namespace dream_r::bench;

namespace {

constexpr int kVocabulary = 151936;

struct Model {
  const char* name;
  int hidden, ffn;
  ops::Heads heads;
};
const Model kModels[] = {{"2B", 2048, 6144, {16, 8, 128}}, {"32B", 5120, 25600, {64, 8, 128}}};

Tensor on_device(Stream& s, Shape shape) {
  return ops::copy_to(s, random_tensor(shape, DType::f32), s.device());
}

Tensor slots_of(Stream& s, int rows) {
  Tensor t = Tensor::empty({rows}, DType::i32);
  for (int i = 0; i < rows; ++i) t.data<std::int32_t>()[i] = 5 + i;
  return ops::copy_to(s, t, s.device());
}

void forward_ops(GpuReport& report, const Model& m, int rows) {
  Stream& s = report.stream();
  const ops::Heads h = m.heads;
  const auto name = [&](const char* op) {
    return std::string(m.name) + " rows=" + std::to_string(rows) + " " + op;
  };
  const double row = 4.0 * rows;
  const Tensor x = on_device(s, {rows, m.hidden}), delta = on_device(s, {rows, m.hidden});
  const Tensor out = on_device(s, {rows, m.hidden}), w = on_device(s, {m.hidden});
  report.add(name("rms_norm"), row * 2 * m.hidden, 0, [&] { ops::rms_norm(s, x, w, 1e-6f, out); });
  report.add(name("add_rms_norm"), row * 4 * m.hidden, 0,
             [&] { ops::add_rms_norm(s, x, delta, w, 1e-6f, out); });
  const Tensor gate_up = on_device(s, {rows, 2 * m.ffn}), act = on_device(s, {rows, m.ffn});
  report.add(name("silu_mul"), row * 3 * m.ffn, 0, [&] { ops::silu_mul(s, gate_up, act); });
  const std::int64_t width = (h.q + 2 * h.kv) * h.dim;
  const Tensor qkv = on_device(s, {rows, width}), norm = on_device(s, {h.dim});
  const Tensor cos = on_device(s, {rows, h.dim / 2}), sin = on_device(s, {rows, h.dim / 2});
  const std::int64_t blocks = (rows + 5) / 16 + 1;
  const ops::KvLayer layer{Tensor::empty({blocks, h.kv, h.dim, 16}, DType::bf16, s.device()),
                           Tensor::empty({blocks, h.kv, 16, h.dim}, DType::bf16, s.device())};
  const Tensor slots = slots_of(s, rows);
  report.add(name("qk_norm_rope, kv_write"), row * static_cast<double>(width), 0, [&] {
    ops::qk_norm_rope(s, qkv, h, norm, norm, 1e-6f, cos, sin);
    ops::kv_write(s, qkv, h, slots, layer);
  });
  report.add(name("qk_norm_rope_write"), row * static_cast<double>(width), 0, [&] {
    ops::qk_norm_rope_write(s, qkv, h, norm, norm, 1e-6f, cos, sin, slots, layer);
  });
}

// With the upload of the choices and the wait for the tokens. A temperature of 1 leaves the logits
// as they are for the next repeat.
void sampling(GpuReport& report, int rows) {
  Stream& s = report.stream();
  Tensor spread = random_tensor({rows, kVocabulary}, DType::f32);  // a few hundred likely tokens
  for (std::int64_t i = 0; i < spread.numel(); ++i) spread.f32()[i] *= 300.0f;
  const Tensor logits = ops::copy_to(s, spread, s.device());
  const std::pair<const char*, ops::SamplingParams> how[] = {
      {"greedy", {}},
      {"temperature", {.temperature = 1.0f}},
      {"top-k 20, top-p 0.95", {.temperature = 1.0f, .top_k = 20, .top_p = 0.95f}},
      {"top-p 0.95", {.temperature = 1.0f, .top_p = 0.95f}},
  };
  std::vector<std::int32_t> tokens(static_cast<std::size_t>(rows));
  for (const auto& [name, params] : how) {
    const std::vector<ops::SampleRow> choices(tokens.size(), ops::SampleRow{params, {}, {}, {}});
    report.add("sample rows=" + std::to_string(rows) + " " + name, 4.0 * rows * kVocabulary, 0,
               [&] { ops::sample_rows(s, logits, choices, tokens); });
  }
}

}  // namespace

int main(int argc, char** argv) try {
  GpuReport report(parse(argc, argv, "Ops between the products, and sampling, on the GPU"));
  report.calibrate("forward");
  for (const Model& m : kModels)
    for (const int rows : {1, 4, 32, 512}) forward_ops(report, m, rows);
  report.calibrate("sampling");
  for (const int rows : {1, 8}) sampling(report, rows);
} catch (const Error& e) {
  std::fprintf(stderr, "%s\n", e.what());
  return 1;
}
