// Decoding by graphs on a device: how many there are, and that rows which fill a batch up are
// nobody's business.
#include <random>
#include <set>

#include "decoding.h"
#include "doctest.h"
#include "model/padding.h"
#include "small_model.h"

using namespace dream_r;
using test::Decoding;

namespace {

std::shared_ptr<const Model> there(DType dtype, bool experts = false) {
  ModelConfig c = test::small_model(2);
  if (experts) c.text.moe = {.experts = 6, .per_token = 2, .ffn = 16, .dense_layers = {}};
  return random_model(c, {dtype, 1, cuda_device()});
}

}  // namespace

TEST_CASE("padded rows: two steps an octave, never half as many again") {
  std::set<std::size_t> counts;
  for (std::size_t n = 1; n <= 256; ++n) {
    const std::size_t m = padded_rows(n);
    CHECK(m >= n);
    CHECK(2 * m < 3 * n);
    CHECK(padded_rows(m) == m);
    counts.insert(m);
  }
  CHECK(counts ==
        std::set<std::size_t>{1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256});
  CHECK(padded_rows(257) == 257);
}

TEST_CASE("device: rows that fill a batch up change no bit of the others, and no block") {
  if (!kHasCuda) return;
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const auto model = there(dtype);
    Graphs graphs, more_graphs;
    Decoding full(*model, 6, &graphs), filled(*model, 6, &more_graphs);
    const std::vector<std::byte> untouched = filled.cache(5);
    for (int i = 0; i < 20; ++i) {  // as it is, captured, replayed; a second block
      std::vector<float> expected = full.step();
      const std::vector<float> got = filled.step(5);
      CHECK(got.size() == 5u * 50);
      expected.resize(got.size());
      CHECK(got == expected);
    }
    for (int s = 0; s < 5; ++s) CHECK(filled.cache(s) == full.cache(s));
    CHECK(filled.cache(5) == untouched);
    CHECK(full.cache(5) != untouched);
  }
}

TEST_CASE("device: batches of any size need few graphs") {
  if (!kHasCuda) return;
  const auto model = there(DType::f32);
  Graphs graphs;
  Decoding with(*model, 12, &graphs), without(*model, 12, nullptr);
  std::mt19937 random(3);
  std::set<std::size_t> counts;
  for (int i = 0; i < 48; ++i) {
    const int rows = 1 + static_cast<int>(random() % 12);
    counts.insert(padded_rows(static_cast<std::size_t>(rows)));
    test::check_close(with.step(rows), without.step(rows));
    CHECK(graphs.captured() <= counts.size());
  }
  CHECK(counts.size() == 7);
  CHECK(graphs.captured() == 7);
}

TEST_CASE("device: with experts a batch keeps its number of rows") {
  if (!kHasCuda) return;
  for (const bool experts : {false, true}) {
    const auto model = there(DType::f32, experts);
    Graphs graphs;
    Decoding decoding(*model, 6, &graphs);
    for (const int rows : {5, 5, 6, 6}) decoding.step(rows);
    CHECK(graphs.captured() == (experts ? 2 : 1));
  }
}

TEST_CASE("device: of too many graphs the one that has not run for longest goes") {
  if (!kHasCuda) return;
  const auto model = there(DType::f32);
  Graphs graphs(2);
  Decoding with(*model, 3, &graphs), without(*model, 3, nullptr);
  const auto step = [&](int rows) {
    CHECK(with.step(rows) == without.step(rows));
    return graphs.captured();
  };
  for (const int rows : {1, 1, 2}) step(rows);
  CHECK(step(2) == 2);
  CHECK(step(3) == 1);  // 1 is gone
  CHECK(step(2) == 1);
  CHECK(step(3) == 2);
  CHECK(step(2) == 2);
  CHECK(step(1) == 1);  // 3 is gone
  CHECK(step(2) == 1);
  CHECK(step(1) == 2);
}
