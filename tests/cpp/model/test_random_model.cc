// Made-up weights: a sane scale in every format, and nothing that threads decide.
#include <cmath>
#include <numeric>

#include "doctest.h"
#include "files.h"
#include "model/random_source.h"
#include "model/vl_model.h"
#include "ops/ops.h"

using namespace dream_r;

namespace {

constexpr std::int64_t kPanel = 16;
constexpr WeightFormat kFormats[] = {WeightFormat::f32, WeightFormat::bf16, WeightFormat::f16,
                                     WeightFormat::w4};

// Element (row, i) as linear_weight.h lays it down.
float element(const LinearWeight& w, std::int64_t row, std::int64_t i) {
  const std::int64_t panel = row / kPanel * w.steps(), lane = row % kPanel;
  const auto word = [&](std::int64_t step) {
    return w.packed.data<std::uint32_t>()[(panel + step) * kPanel + lane];
  };
  if (w.format == WeightFormat::f32) return std::bit_cast<float>(word(i));
  if (w.format == WeightFormat::bf16)
    return std::bit_cast<float>(word(i / 2) >> (i % 2 * 16) << 16);
  if (w.format == WeightFormat::f16)
    return static_cast<float>(
        std::bit_cast<f16>(static_cast<std::uint16_t>(word(i / 2) >> (i % 2 * 16))));
  const std::int64_t line = i / w.group * (w.group / 8 + 1);
  const std::uint32_t head = word(line), q = word(line + 1 + i % w.group / 8) >> (i % 8 * 4) & 15u;
  const float zero = static_cast<float>(head & 15u);
  return (static_cast<float>(q) - zero) * std::bit_cast<float>(head & ~15u);
}

LinearWeight made(WeightFormat format, std::int64_t n, std::int64_t k, int threads = 1) {
  Stream stream(threads);
  Arena memory;
  return RandomSource(5).linear(stream, memory, format, n, k, 32);
}

std::vector<std::byte> bytes(const LinearWeight& w) {
  const auto* p = w.packed.data<std::byte>();
  return {p, p + w.packed.nbytes()};
}

ModelConfig deep(int layers) {
  ModelConfig c;
  c.model_type = "qwen3_vl";
  c.text = {.hidden = 128,
            .layers = layers,
            .heads = 4,
            .kv_heads = 2,
            .head_dim = 32,
            .ffn = 384,
            .vocab = 200,
            .moe = {}};
  c.text.mrope_sections = {6, 5, 5};
  return c;
}

// Logits after a few tokens.
std::vector<float> logits(const Model& model) {
  Stream stream(model.device());
  Arena arena(model.device());
  KvStore kv(model.kv_shape(), 1, model.device());
  const std::vector<std::int32_t> ids{3, 14, 15, 92}, table{0};
  std::vector<Position> positions;
  for (std::int32_t i = 0; i < 4; ++i) positions.push_back({i, i, i});
  Batch batch;
  BatchRow row;
  row.tokens = ids, row.positions = positions, row.own = {table.data(), 0};
  batch.rows.push_back(row);
  batch.wanted.push_back({0, 3});
  const auto result = model.forward(stream, arena, kv, batch, {});
  const Tensor here = ops::copy_to(stream, result.full, {});
  return {here.f32(), here.f32() + here.numel()};
}

double deviation(std::span<const float> x) {
  double sum = 0, squares = 0;
  for (float v : x) sum += v, squares += double{v} * v;
  const auto n = static_cast<double>(x.size());
  return std::sqrt(squares / n - sum / n * (sum / n));
}

}  // namespace

TEST_CASE("random weights: of deviation 0.02 about 0 in every format, no two rows alike") {
  for (const auto format : kFormats) {
    CAPTURE(static_cast<int>(format));
    constexpr std::int64_t kRows = 200, kColumns = 640;
    const LinearWeight w = made(format, kRows, kColumns);
    std::vector<float> all;
    for (std::int64_t row = 0; row < kRows; ++row)
      for (std::int64_t i = 0; i < kColumns; ++i) all.push_back(element(w, row, i));
    CHECK(deviation(all) == doctest::Approx(0.02).epsilon(0.03));
    CHECK(std::abs(std::accumulate(all.begin(), all.end(), 0.0) / all.size()) < 0.003);
    const auto row = [&](std::int64_t r) {
      return std::vector(all.begin() + r * kColumns, all.begin() + (r + 1) * kColumns);
    };
    for (std::int64_t r = 1; r < kRows; ++r) CHECK(row(r) != row(r - 1));
  }
}

TEST_CASE("random weights: zeros where a panel holds no element") {
  for (const auto format : kFormats) {
    CAPTURE(static_cast<int>(format));
    const std::int64_t k = format == WeightFormat::w4 ? 64 : 33;
    const LinearWeight w = made(format, 21, k);
    REQUIRE(w.packed.dim(0) == 2);
    const auto* last = w.packed.data<std::uint32_t>() + w.steps() * kPanel;
    for (std::int64_t step = 0; step < w.steps(); ++step)
      for (std::int64_t lane = 0; lane < kPanel; ++lane)
        CHECK((last[step * kPanel + lane] == 0) == (lane >= 21 - kPanel));
    if (in_pairs(format))
      for (std::int64_t row = 0; row < 21; ++row) CHECK(element(w, row, k) == 0);
  }
}

TEST_CASE("random weights: the same with any number of threads") {
  for (const auto format : kFormats)
    CHECK(bytes(made(format, 300, 256, 1)) == bytes(made(format, 300, 256, 3)));
}

TEST_CASE("random models: as deep as any, their logits neither explode nor vanish") {
  for (const bool experts : {false, true})
    for (const bool quantised : {false, true}) {
      ModelConfig c = deep(64);
      if (experts) c.text.moe = {.experts = 4, .per_token = 2, .ffn = 128, .dense_layers = {}};
      if (quantised) c.quantization = {Quantization::Method::pack_quantized, 64, true};
      CAPTURE(experts);
      CAPTURE(quantised);
      const auto model = random_model(c, {DType::bf16, 2});
      const double spread = deviation(logits(*model));
      CHECK(spread > 0.05);  // of rows of deviation 0.02 on 128 numbers of deviation 1: 0.23
      CHECK(spread < 1);
      const auto plain = deep(64);
      if (quantised && !experts)
        CHECK(model->weight_bytes() < random_model(plain, {DType::bf16, 2})->weight_bytes() / 3);
    }
}

TEST_CASE("device: random weights are the CPU's, bit for bit, in every format") {
  if (!kHasCuda) return;
  Stream here, there(cuda_device());
  RandomSource on_cpu(5), on_device(5);
  Arena memory_here, memory_there(cuda_device());
  for (const auto format : kFormats)
    for (int i = 0; i < 2; ++i) {
      CAPTURE(static_cast<int>(format));
      const LinearWeight expected = on_cpu.linear(here, memory_here, format, 200, 640, 128);
      const LinearWeight got = on_device.linear(there, memory_there, format, 200, 640, 128);
      CHECK(got.packed.device() == cuda_device());
      CHECK(bytes(copy_to(there, got, {})) == bytes(expected));
    }
}

TEST_CASE("device: random models of any family give finite logits, the CPU's") {
  if (!kHasCuda) return;
  for (const bool experts : {false, true}) {
    ModelConfig c = deep(3);
    if (experts) c.text.moe = {.experts = 4, .per_token = 2, .ffn = 128, .dense_layers = {}};
    c.quantization = {Quantization::Method::pack_quantized, 64, true};
    c.text.tied_head = experts;
    const auto here = random_model(c, {DType::bf16, 1});
    const auto there = random_model(c, {DType::bf16, 1, cuda_device()});
    CHECK(there->weight_bytes() == here->weight_bytes());
    const std::vector<float> got = logits(*there), expected = logits(*here);
    REQUIRE(got.size() == expected.size());
    const double spread = deviation(expected);
    for (std::size_t i = 0; i < got.size(); ++i)  // bf16's roundings of x
      CHECK(std::abs(got[i] - expected[i]) < 0.1 * spread);
  }
}

TEST_CASE("random weights: a group that does not divide the inputs is refused") {
  CHECK(test::has(test::error_of([] { made(WeightFormat::w4, 16, 40); }), "does not divide 40"));
}
