#pragma once
// Sequences that grow by a token each a forward, alone or together.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "doctest.h"
#include "model/graphs.h"
#include "model/vl_model.h"
#include "ops/ops.h"

namespace test {

using namespace dream_r;

inline std::vector<float> on_cpu(Stream& stream, const Tensor& t) {
  const Tensor here = ops::copy_to(stream, t, {});
  return {here.f32(), here.f32() + here.numel()};
}

// In units of the largest value: a few roundings of f32, as sums go in another order there.
constexpr float kF32 = 2e-5f;
inline void check_close(const std::vector<float>& got, const std::vector<float>& expected,
                        float tolerance = kF32) {
  REQUIRE(got.size() == expected.size());
  float largest = 0, difference = 0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    largest = std::max(largest, std::abs(expected[i]));
    const float d = std::abs(got[i] - expected[i]);
    difference = d <= difference ? difference : d;  // NaN is kept
  }
  CHECK(difference <= tolerance * largest);
}

// Sequence i has the blocks `i`, `i + n`, ...; the cache is full of bytes 1 at first.
class Decoding {
 public:
  static constexpr int kBlocks = 20;  // of a sequence

  Decoding(const Model& model, int sequences, Graphs* graphs)
      : model_(model),
        stream_(model.device()),
        arena_(model.device()),
        kv_(model.kv_shape(), kBlocks * sequences, model.device()),
        graphs_(graphs),
        tables_(static_cast<std::size_t>(sequences)),
        lengths_(tables_.size()) {
    for (int i = 0; i < sequences; ++i)
      for (int b = 0; b < kBlocks; ++b)
        tables_[static_cast<std::size_t>(i)].push_back(b * sequences + i);
    for (int layer = 0; layer < kv_.shape().layers; ++layer)
      for (const Tensor& t : {kv_.k(layer), kv_.v(layer)}) {
        const Tensor ones = Tensor::empty(t.shape(), t.dtype());
        std::memset(ones.data<char>(), 1, ones.nbytes());
        ops::copy(stream_, ones, t);
      }
    stream_.wait();
  }
  // Logits after one more token of each of the first `rows` sequences, or of all.
  std::vector<float> step(int rows = 0) {
    const std::size_t n = rows ? static_cast<std::size_t>(rows) : tables_.size();
    std::vector<std::int32_t> tokens(n);
    std::vector<Position> positions(n);
    Batch batch;
    for (std::size_t i = 0; i < n; ++i) {
      const std::int32_t at = lengths_[i]++;
      tokens[i] = static_cast<std::int32_t>((7 * at + 13 * static_cast<int>(i)) % 50);
      positions[i] = {at, at, at};
      BatchRow row;
      row.tokens = std::span(tokens).subspan(i, 1);
      row.positions = std::span(positions).subspan(i, 1);
      row.own = {tables_[i].data(), at};
      batch.rows.push_back(row);
      batch.wanted.push_back({static_cast<std::int32_t>(i), 0, false});
    }
    return on_cpu(stream_, model_.forward(stream_, arena_, kv_, batch, {}, graphs_).full);
  }
  // Keys and values of a sequence's blocks, all layers.
  std::vector<std::byte> cache(int sequence) {
    std::vector<std::byte> bytes;
    for (int layer = 0; layer < kv_.shape().layers; ++layer)
      for (const Tensor& t : {kv_.k(layer), kv_.v(layer)}) {
        const Tensor here = ops::copy_to(stream_, t, {});
        for (const std::int32_t block : tables_[static_cast<std::size_t>(sequence)]) {
          const Tensor one = here.rows(block, block + 1);
          const auto* p = one.data<std::byte>();
          bytes.insert(bytes.end(), p, p + one.nbytes());
        }
      }
    return bytes;
  }

 private:
  const Model& model_;
  Stream stream_;
  Arena arena_;
  KvStore kv_;
  Graphs* graphs_;
  std::vector<std::vector<std::int32_t>> tables_;
  std::vector<std::int32_t> lengths_;
};

}  // namespace test
