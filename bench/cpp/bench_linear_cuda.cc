// Linear layers of real models on a CUDA device. A call moves the bytes of its weights at least.
#include <thread>

#include "bench_cuda.h"
#include "ops/ops.h"
#include "quant/w4.h"

using namespace dream_r;
using namespace dream_r::bench;

namespace {

struct Matrix {
  const char* name;
  std::int64_t n, k;
};
const Matrix kMatrices[] = {
    {"32B qkv", 10240, 5120},     {"32B o", 5120, 8192},         {"32B gate_up", 51200, 5120},
    {"32B down", 5120, 25600},    {"32B lm_head", 151936, 5120}, {"2B qkv", 4096, 2048},
    {"2B o", 2048, 2048},         {"2B gate_up", 12288, 2048},   {"2B down", 2048, 6144},
    {"2B lm_head", 151936, 2048},
};
constexpr int kRows[] = {1, 2, 4, 8, 16, 32, 64, 150, 256, 600, 2048};
constexpr std::int64_t kGroup = 128;

// Any bits do for q and z; scales are sane numbers, so that no product is slow or infinite.
LinearWeight random_weight(Stream& s, std::int64_t n, std::int64_t k, WeightFormat format) {
  Stream host(static_cast<int>(std::thread::hardware_concurrency()));
  if (format == WeightFormat::bf16) {
    const Tensor source = random_tensor({n, k}, DType::bf16);
    return copy_to(s, pack_linear(host, std::span(&source, 1), format), s.device());
  }
  quant::W4Matrix q{"weight", quant::W4Layout::pack_quantized, n, k, kGroup, {}, {}, {}};
  q.words = random_tensor({n, k / 8}, DType::i32);
  q.scales = random_tensor({n, k / kGroup}, DType::bf16);
  return copy_to(s, quant::pack_w4(host, std::span(&q, 1)), s.device());
}

// The same rows again and again: reading them takes as long as reading others.
LinearWeight make_weight(Stream& s, const Matrix& m, WeightFormat format) {
  LinearWeight w = random_weight(s, 512, m.k, format);
  const Tensor some = w.packed;
  const std::int64_t panels = m.n / 16, each = some.dim(0);
  std::vector<std::int64_t> dims;
  for (int i = 0; i < some.shape().rank(); ++i) dims.push_back(some.dim(i));
  dims[0] = panels;
  w.packed = Tensor::empty(Shape(dims), some.dtype(), s.device());
  for (std::int64_t at = 0; at < panels; at += each) {
    const std::int64_t end = std::min(at + each, panels);
    ops::copy(s, some.rows(0, end - at), w.packed.rows(at, end));
  }
  s.wait();  // `some` goes
  w.n = m.n;
  return w;
}

void run(GpuReport& report, const Matrix& m, WeightFormat format) {
  const std::string title = std::string(m.name) + (format == WeightFormat::w4 ? " w4" : " bf16");
  const auto name = [&](int rows) { return title + " M=" + std::to_string(rows); };
  if (std::none_of(std::begin(kRows), std::end(kRows),
                   [&](int rows) { return report.wants(name(rows)); }))
    return;
  Stream& s = report.stream();
  const LinearWeight w = make_weight(s, m, format);
  report.calibrate(title);
  for (const int rows : kRows) {
    if (!report.wants(name(rows))) continue;
    const Tensor x = ops::copy_to(s, random_tensor({rows, m.k}), s.device());
    const Tensor out = Tensor::empty({rows, m.n}, DType::f32, s.device());
    report.add(name(rows), static_cast<double>(w.nbytes()),
               2.0 * rows * static_cast<double>(m.n * m.k), [&] { ops::linear(s, x, w, out); });
  }
}

}  // namespace

int main(int argc, char** argv) try {
  GpuReport report(parse(argc, argv, "Linear layers on the first CUDA device"));
  for (const Matrix& m : kMatrices)
    for (const auto format : {WeightFormat::w4, WeightFormat::bf16}) run(report, m, format);
  return 0;
} catch (const Error& e) {
  std::fprintf(stderr, "%s\n", e.what());
  return 1;
}
