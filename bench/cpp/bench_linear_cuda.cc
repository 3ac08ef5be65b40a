// Linear layers of real models on a CUDA device. A call moves the bytes of its weights at least.
#include <numeric>

#include "bench_cuda.h"
#include "model/random_source.h"
#include "ops/ops.h"
#include "shapes.h"

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
    {"2B lm_head", 151936, 2048}, {"4B qkv", 6144, 2560},        {"4B gate_up", 19456, 2560},
    {"4B down", 2560, 9728},      {"8B qkv", 6144, 4096},        {"8B gate_up", 24576, 4096},
    {"8B down", 4096, 12288},     {"235B-A22B qkv", 9216, 4096}, {"235B-A22B o", 4096, 8192},
};
const Matrix kExperts[] = {{"30B-A3B experts' gate_up", 1536, 2048},
                           {"235B-A22B experts' gate_up", 3072, 4096},
                           {"235B-A22B experts' down", 4096, 1536}};
constexpr int kRows[] = {1, 2, 4, 8, 16, 32, 64, 150, 256, 600, 2048};

LinearWeight make_weight(Stream& s, std::int64_t n, std::int64_t k, WeightFormat format) {
  RandomSource source(1);
  Arena memory(s.device(), 0);
  LinearWeight w = source.linear(s, memory, format, n, k, kGroup);
  s.wait();  // the source goes, and kernels read weights early
  return w;
}

void run(GpuReport& report, const Matrix& m, WeightFormat format) {
  const std::string title = std::string(m.name) + (format == WeightFormat::w4 ? " w4" : " bf16");
  const auto name = [&](int rows) { return title + " M=" + std::to_string(rows); };
  if (std::none_of(std::begin(kRows), std::end(kRows),
                   [&](int rows) { return report.wants(name(rows)); }))
    return;
  Stream& s = report.stream();
  const LinearWeight w = make_weight(s, m.n, m.k, format);
  report.calibrate(title);
  for (const int rows : kRows) {
    if (!report.wants(name(rows))) continue;
    const Tensor x = ops::copy_to(s, random_tensor({rows, m.k}), s.device());
    const Tensor out = Tensor::empty({rows, m.n}, DType::f32, s.device());
    report.add(name(rows), static_cast<double>(w.nbytes()),
               2.0 * rows * static_cast<double>(m.n * m.k), [&] { ops::linear(s, x, w, out); });
  }
}

// Tokens that chose eight experts each, at random; what they chose is read once.
void experts(GpuReport& report, const Matrix& m) {
  constexpr int kCount = 128, kEach = 8;
  const std::string title = std::string(m.name) + " w4";
  if (!report.wants(title)) return;
  Stream& s = report.stream();
  std::vector<LinearWeight> weights;
  for (int e = 0; e < kCount; ++e) weights.push_back(make_weight(s, m.n, m.k, WeightFormat::w4));
  report.calibrate(title);
  std::mt19937 random(1);
  for (const int tokens : {1, 4, 16, 64, 256}) {
    std::vector<std::int32_t> all(kCount), rows(kCount);
    std::iota(all.begin(), all.end(), 0);
    for (int t = 0; t < tokens; ++t) {
      std::shuffle(all.begin(), all.end(), random);
      for (int j = 0; j < kEach; ++j) ++rows[static_cast<std::size_t>(all[j])];
    }
    const auto chosen = kCount - std::count(rows.begin(), rows.end(), 0);
    const Tensor begin = Tensor::empty({kCount + 1}, DType::i32);
    begin.data<std::int32_t>()[0] = 0;
    std::partial_sum(rows.begin(), rows.end(), begin.data<std::int32_t>() + 1);
    const Tensor there = ops::copy_to(s, begin, s.device());
    const std::int64_t pairs = std::int64_t{tokens} * kEach;
    const Tensor x = ops::copy_to(s, random_tensor({pairs, m.k}), s.device());
    const Tensor out = Tensor::empty({pairs, m.n}, DType::f32, s.device());
    report.add(title + " tokens=" + std::to_string(tokens),
               static_cast<double>(chosen) * static_cast<double>(weights[0].nbytes()),
               2.0 * static_cast<double>(pairs * m.n * m.k),
               [&] { ops::grouped_linear(s, x, weights, there, out); });
  }
}

}  // namespace

int main(int argc, char** argv) try {
  GpuReport report(parse(argc, argv, "Linear layers on the first CUDA device"));
  for (const Matrix& m : kMatrices)
    for (const auto format : {WeightFormat::w4, WeightFormat::bf16}) run(report, m, format);
  for (const Matrix& m : kExperts) experts(report, m);
  return 0;
} catch (const Error& e) {
  std::fprintf(stderr, "%s\n", e.what());
  return 1;
}
