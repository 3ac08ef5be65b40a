#pragma once
// The experts of one layer, for a whole batch: its rows are grouped by expert, so every expert's
// weights are read once however many rows chose it.
#include "core/arena.h"
#include "core/stream.h"
#include "model/config.h"
#include "model/weights.h"

namespace dream_r {

class ExpertPass {
 public:
  ExpertPass(Stream& stream, Arena& arena, const TextConfig& config)
      : stream_(stream), arena_(arena), config_(config) {}
  // x, out: f32 [rows, hidden]. Scratch is taken on the first call and serves later ones of as many
  // rows or fewer.
  void run(const MoeWeights& weights, const Tensor& x, Tensor out);

 private:
  void take(std::int64_t rows);

  Stream& stream_;
  Arena& arena_;
  const TextConfig& config_;
  std::int64_t rows_ = 0;
  Tensor logits_, weight_;         // [rows, experts], [rows, per_token]
  Tensor expert_, token_, place_;  // i32 [rows, per_token], [pairs], [pairs]
  Tensor begin_;                   // i32 [experts + 1]
  Tensor grouped_;                 // [pairs, hidden]
  Tensor gate_up_, act_;           // [pairs, 2 ffn], [pairs, ffn]
};

}  // namespace dream_r
