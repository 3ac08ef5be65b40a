// Made-up weights: what ops.h says of every word, and the same on every device.
#include <map>

#include "common.h"
#include "ops/fill.h"

using namespace dream_r;
using namespace dream_r::test;

namespace {

constexpr std::int64_t kPanel = 16;
constexpr std::uint64_t kKey = 0x0123456789abcdefu;
constexpr std::uint32_t kHead = 0x3b8e0008u;

// No word is 0, so that a zero is one of the padding.
Tensor table() {
  Tensor t = Tensor::empty({ops::kFillOffsets + ops::kFillRun}, DType::i32);
  for (std::int64_t i = 0; i < t.numel(); ++i)
    t.data<std::uint32_t>()[i] = 0x80010001u + static_cast<std::uint32_t>(i) * 0x10003u;
  return t;
}

// Word `lane` of line `line` of panel `panel`.
std::uint32_t expected(const Tensor& from, const LinearWeight& w, std::int64_t panel,
                       std::int64_t line, std::int64_t lane) {
  if (panel * kPanel + lane >= w.n) return 0;
  if (w.group && line % (w.group / 8 + 1) == 0) return kHead;
  const std::int64_t at = line * kPanel + lane, begin = at / ops::kFillRun * ops::kFillRun;
  const std::int64_t run = ops::fill_offset(kKey, panel * w.steps() * kPanel + begin);
  const std::uint32_t word = from.data<std::uint32_t>()[run + at - begin];
  const bool half = size_of(w.packed.dtype()) == 2 && w.k % 2 && line == w.steps() - 1;
  return half ? word & 0xffffu : word;
}

LinearWeight filled_weight(Stream& s, WeightFormat format, std::int64_t n, std::int64_t k,
                           std::int64_t group) {
  Arena memory(s.device());
  const LinearWeight w = empty_linear(format, n, k, group, &memory);
  ops::fill_linear(s, ops::copy_to(s, table(), s.device()), kKey, kHead, w);
  return copy_to(s, w, {});
}

}  // namespace

TEST_CASE("fill_linear: runs of the table, heads where a group begins, zeros past the end") {
  const Tensor from = table();
  each_device([&](Stream& s) {
    struct {
      WeightFormat format;
      std::int64_t n, k, group;
    } const cases[] = {{WeightFormat::f32, 21, 33, 0},    {WeightFormat::f32, 32, 300, 0},
                       {WeightFormat::bf16, 21, 33, 0},   {WeightFormat::bf16, 48, 514, 0},
                       {WeightFormat::f16, 21, 33, 0},    {WeightFormat::w4, 17, 64, 32},
                       {WeightFormat::w4, 40, 2048, 128}, {WeightFormat::w4, 16, 2560, 64}};
    for (const auto& c : cases) {
      CAPTURE(c.k);
      const LinearWeight w = filled_weight(s, c.format, c.n, c.k, c.group);
      const auto* word = w.packed.data<std::uint32_t>();
      std::int64_t wrong = 0;
      for (std::int64_t p = 0; p < w.packed.dim(0); ++p)
        for (std::int64_t line = 0; line < w.steps(); ++line)
          for (std::int64_t lane = 0; lane < kPanel; ++lane)
            wrong += *word++ != expected(from, w, p, line, lane);
      CHECK(wrong == 0);
    }
  });
}

TEST_CASE("fill_linear: runs begin all over the table") {
  std::map<std::int64_t, int> quarters;
  for (std::int64_t i = 0; i < 1000; ++i) {
    const std::int64_t offset = ops::fill_offset(kKey, i * ops::kFillRun);
    REQUIRE(offset >= 0);
    REQUIRE(offset < ops::kFillOffsets);
    ++quarters[offset / (ops::kFillOffsets / 4)];
  }
  for (const auto& [quarter, count] : quarters) CHECK(count > 150);
  CHECK(quarters.size() == 4);
}

TEST_CASE("fill_linear: refuses another table, and a weight that is not there") {
  each_device([](Stream& s) {
    Arena memory(s.device());
    const LinearWeight w = empty_linear(WeightFormat::f32, 16, 8, 0, &memory);
    const Tensor small = Tensor::empty({5}, DType::i32, s.device());
    const Tensor floats =
        Tensor::empty({ops::kFillOffsets + ops::kFillRun}, DType::f32, s.device());
    CHECK(rejects("fill_linear", [&] { ops::fill_linear(s, small, 1, 0, w); }));
    CHECK(rejects("fill_linear", [&] { ops::fill_linear(s, floats, 1, 0, w); }));
    const Tensor good = Tensor::empty({ops::kFillOffsets + ops::kFillRun}, DType::i32, s.device());
    CHECK(rejects("fill_linear", [&] { ops::fill_linear(s, good, 1, 0, {}); }));
    if (s.device().on_cuda())
      CHECK(rejects("fill_linear", [&] { ops::fill_linear(s, table(), 1, 0, w); }));
  });
}
