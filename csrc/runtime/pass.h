#pragma once
// One forward of a lane: the rows that its bursts add, what they want to know of them, and the
// answers. Tokens are drawn where the model is; only answers come back from a device.
#include <cstdint>
#include <span>
#include <vector>

#include "core/arena.h"
#include "core/stream.h"
#include "model/model.h"
#include "ops/ops.h"

namespace dream_r {

class Pass {
 public:
  // `head`: of model.keyword_head(), or undefined; `graphs` may be null.
  Pass(const Model& model, Stream& stream, Arena& arena, KvStore& kv, const LinearWeight& head,
       Graphs* graphs)
      : model_(model), stream_(stream), arena_(arena), kv_(kv), head_(head), graphs_(graphs) {}

  void clear();
  std::int32_t add(const BatchRow& row);  // its index
  // What is wanted after token `token` of row `row`; the number returned finds the answer.
  // `how` and what its spans show stay as they are until run() returns.
  std::size_t draw(std::int32_t row, std::int32_t token, const ops::SampleRow& how);
  std::size_t log_sum(std::int32_t row, std::int32_t token);   // log(sum(exp)) of all logits
  std::size_t keywords(std::int32_t row, std::int32_t token);  // the keyword head's logits

  void run();  // has ended on return, on a device too

  std::int32_t drawn(std::size_t i) const { return tokens_[i]; }
  float log_sum(std::size_t i) const { return log_sums_[i]; }
  std::span<const float> keywords(std::size_t i) const;
  // After run(): tokens drawn of tokens of row `row` from `begin` on, one for each of `how`, whose
  // logits nobody had wanted; none where they can no longer be had.
  std::vector<std::int32_t> draw_late(std::int32_t row, std::int32_t begin,
                                      std::span<const ops::SampleRow> how);

 private:
  void read();

  const Model& model_;
  Stream& stream_;
  Arena& arena_;
  KvStore& kv_;
  const LinearWeight& head_;
  Graphs* graphs_;

  Batch batch_;
  ForwardResult result_;
  std::vector<LogitsWanted> draws_, sums_, words_;
  std::vector<ops::SampleRow> how_;  // one a draw
  std::vector<std::int32_t> tokens_;
  std::vector<float> log_sums_;
  Tensor word_logits_;  // f32 [words, n], on the CPU
};

}  // namespace dream_r
