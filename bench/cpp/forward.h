#pragma once
// One forward of a model with random weights, as the benchmarks time it: what it computes, what it
// reads at least.
#include <cstring>
#include <numeric>
#include <vector>

#include "model/graphs.h"
#include "model/vl_model.h"
#include "ops/ops.h"
#include "shapes.h"

namespace dream_r::bench {

// A call of forward: `rows` sequences that have `context` tokens each and get `tokens` more.
struct Case {
  const char* what;
  int rows, tokens, context;
};
// Weights that a forward multiplies with for every token, the head left out.
inline double layer_weights(const TextConfig& t) {
  const double q = t.heads * t.head_dim, kv = t.kv_heads * t.head_dim, h = t.hidden;
  const bool moe = t.moe.experts > 0;
  const double mlp = moe ? h * t.moe.experts + 3 * h * t.moe.ffn * t.moe.per_token : 3 * h * t.ffn;
  return t.layers * (h * (q + 2 * kv) + q * h + mlp);
}

// Of the weights, those that one token does not read: experts it does not choose and, where the
// head is a matrix of its own, the table of embeddings but for a row.
inline double unread_bytes(const TextConfig& t, WeightFormat format) {
  const double bytes = format == WeightFormat::f32    ? 4
                       : format == WeightFormat::bf16 ? 2
                       : format == WeightFormat::i16  ? 2 * 33.0 / 32
                                                      : 0.5 + 4.0 / kGroup;
  const double unread = t.moe.experts - t.moe.per_token;
  const double entry = format == WeightFormat::f32 ? 4 : 2;
  const double table = t.tied_head ? 0 : entry * t.vocab * t.hidden;
  return table + t.layers * unread * 3 * t.hidden * t.moe.ffn * bytes;
}

class Setup {
 public:
  Setup(const Model& model, DType dtype, const Case& c)
      : model_(model), kv_(shape(dtype), blocks(c), model.device()), arena_(model.device()) {
    ids_.assign(static_cast<std::size_t>(c.tokens), 1);
    for (int i = 0; i < c.tokens; ++i)
      positions_.push_back({c.context + i, c.context + i, c.context + i});
    table_.resize(static_cast<std::size_t>(kv_.blocks()));
    std::iota(table_.begin(), table_.end(), 0);
    clear();
    const int each = kv_.blocks() / c.rows;
    for (int r = 0; r < c.rows; ++r) {
      BatchRow row;
      row.tokens = ids_;
      row.positions = positions_;
      row.own = {table_.data() + r * each, c.context};
      batch_.rows.push_back(row);
      batch_.wanted.push_back({r, c.tokens - 1});
    }
  }
  // Another token each time, so that experts are chosen as a text chooses them.
  void forward(Stream& s) {
    for (auto& id : ids_) id = (id + 7919) % model_.config().text.vocab;
    model_.forward(s, arena_, kv_, batch_, {}, &graphs_);
  }
  // Keys and values that one forward reads.
  double kv_bytes(const Case& c) const {
    return static_cast<double>(kv_.shape().block_bytes()) / KvStore::kBlock * c.rows *
           (c.context + c.tokens);
  }

 private:
  KvShape shape(DType dtype) const {
    const TextConfig& t = model_.config().text;
    return {t.layers, t.kv_heads, t.head_dim, dtype};
  }
  void clear() {
    Stream stream(model_.device());
    const Tensor zero = Tensor::empty(kv_.k(0).shape(), kv_.shape().dtype);
    std::memset(zero.data<char>(), 0, zero.nbytes());
    for (int layer = 0; layer < kv_.shape().layers; ++layer) {
      ops::copy(stream, zero, kv_.k(layer));
      ops::copy(stream, zero.view(kv_.v(layer).shape()), kv_.v(layer));
    }
    stream.wait();
  }
  static int blocks(const Case& c) { return c.rows * ((c.context + c.tokens + 15) / 16); }

  const Model& model_;
  KvStore kv_;
  Arena arena_;
  Graphs graphs_;
  std::vector<std::int32_t> ids_, table_;
  std::vector<Position> positions_;
  Batch batch_;
};

// Of a forward over `tokens` in all that wants logits after `wanted` of them.
inline double flops_of(const TextConfig& t, double tokens, double wanted) {
  return 2 * (tokens * layer_weights(t) + wanted * t.vocab * t.hidden);
}

}  // namespace dream_r::bench
