// Linear layers: one row (bound by reading the weights) to many (bound by arithmetic). The matrices
// of a large model are rotated over copies of 1 GiB together, so that no cache can hold them; the
// small ones of the demonstration pair stay where they would be in a run, in the caches.
#include "bench.h"
#include "quant/w4.h"

using namespace dream_r;
using namespace dream_r::bench;

namespace {

struct Matrix {
  const char* name;
  std::int64_t n, k;
  bool cold;
};
const Matrix kMatrices[] = {
    {"pocket draft gate_up", 512, 96, false},
    {"pocket target qkv", 512, 256, false},
    {"pocket target gate_up", 1408, 256, false},
    {"pocket target down", 256, 704, false},
    {"keyword rows", 2, 1024, false},
    {"0.6B qkv", 4096, 1024, true},
    {"0.6B gate_up", 6144, 1024, true},
    {"0.6B down", 1024, 3072, true},
    {"0.6B lm_head", 151936, 1024, true},
    {"2B gate_up", 12288, 2048, true},
};

constexpr WeightFormat kFormats[] = {WeightFormat::bf16, WeightFormat::i16, WeightFormat::w4,
                                     WeightFormat::f32};
constexpr std::int64_t kGroup = 128;  // of k that share a scale in w4, as checkpoints have it

std::string case_name(const Matrix& m, WeightFormat format, int rows) {
  const char* names[] = {" f32", " bf16", " w4", " f16", " i16"};
  return m.name + std::string(names[static_cast<int>(format)]) + " M=" + std::to_string(rows);
}

LinearWeight make_weight(Stream& s, const Matrix& m, WeightFormat format) {
  if (format != WeightFormat::w4) {
    const Tensor source = random_tensor({m.n, m.k});
    return pack_linear(s, std::span(&source, 1), format);
  }
  quant::W4Matrix q{m.name, quant::W4Layout::pack_quantized, m.n, m.k, kGroup, {}, {}, {}};
  q.words = random_tensor({m.n, m.k / 8}, DType::i32);
  q.scales = random_tensor({m.n, m.k / kGroup}, DType::bf16);
  return quant::pack_w4(s, std::span(&q, 1));
}

// Equal weights at different addresses, 1 GiB of them where they must come from memory.
std::vector<LinearWeight> make_weights(Stream& s, const Matrix& m, WeightFormat format) {
  std::vector<LinearWeight> copies = {make_weight(s, m, format)};
  while (m.cold && copies.size() * copies[0].nbytes() < (std::size_t{1} << 30)) {
    copies.push_back(copies[0]);
    copies.back().packed = copy_of(copies[0].packed);
  }
  return copies;
}

void run(Report& report, Stream& s, const Matrix& m, WeightFormat format) {
  if (format == WeightFormat::w4 && m.k % kGroup) return;
  std::vector<int> rows;
  for (const int r : {1, 2, 4, 8, 16, 24, 40, 64, 256})
    if (report.wants(case_name(m, format, r)) && (r <= 16 || m.n < 100000)) rows.push_back(r);
  if (rows.empty()) return;
  const auto weights = make_weights(s, m, format);
  report.calibrate(m.name);
  for (const int count : rows) {
    const Tensor x = random_tensor({count, m.k});
    Tensor out = Tensor::empty({count, m.n}, DType::f32);
    std::size_t next = 0;
    Row r{case_name(m, format, count), {}};
    r.time = measure(report.repeats(),
                     [&] { ops::linear(s, x, weights[next++ % weights.size()], out); });
    r.bytes = static_cast<double>(weights[0].nbytes());
    r.flops = 2.0 * count * static_cast<double>(m.n * m.k);
    report.add(r);
  }
}

}  // namespace

int main(int argc, char** argv) {
  const Options o = parse(argc, argv, "Linear layers by shape, weight format and number of rows M");
  Stream s(o.threads);
  Report report(o, s);
  for (const auto& m : kMatrices)
    for (const auto format : kFormats) run(report, s, m, format);
  report.write();
}
