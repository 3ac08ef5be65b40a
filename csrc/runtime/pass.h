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
  void clear();
  std::int32_t add(const BatchRow& row);  // its index
  // What is wanted after token `token` of row `row`; the number returned finds the answer.
  // `how` and what its spans show stay as they are until run() returns.
  std::size_t draw(std::int32_t row, std::int32_t token, const ops::SampleRow& how);
  std::size_t log_sum(std::int32_t row, std::int32_t token);   // log(sum(exp)) of all logits
  std::size_t keywords(std::int32_t row, std::int32_t token);  // the keyword head's logits

  // Has ended on return, on a device too. `head`: of model.keyword_head(), or undefined.
  void run(const Model& model, Stream& stream, Arena& arena, KvStore& kv, const LinearWeight& head,
           Graphs* graphs);

  std::int32_t drawn(std::size_t i) const { return tokens_[i]; }
  float log_sum(std::size_t i) const { return log_sums_[i]; }
  std::span<const float> keywords(std::size_t i) const;

 private:
  void read(const ForwardResult& result, Stream& stream, Arena& arena);

  Batch batch_;
  std::vector<LogitsWanted> draws_, sums_, words_;
  std::vector<ops::SampleRow> how_;  // one a draw
  std::vector<std::int32_t> tokens_;
  std::vector<float> log_sums_;
  Tensor word_logits_;  // f32 [words, n], on the CPU
};

}  // namespace dream_r
