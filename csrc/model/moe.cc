#include "model/moe.h"

#include "ops/ops.h"

namespace dream_r {

void ExpertPass::take(std::int64_t rows) {
  const MoeConfig& c = config_.moe;
  const std::int64_t pairs = rows * c.per_token;
  const auto floats = [this](std::int64_t n, std::int64_t m) {
    return arena_.take({n, m}, DType::f32);
  };
  logits_ = floats(rows, c.experts), weight_ = floats(rows, c.per_token);
  expert_ = arena_.take({rows, c.per_token}, DType::i32);
  token_ = arena_.take({pairs}, DType::i32), place_ = arena_.take({pairs}, DType::i32);
  begin_ = arena_.take({c.experts + 1}, DType::i32);
  grouped_ = floats(pairs, config_.hidden);
  gate_up_ = floats(pairs, 2 * std::int64_t{c.ffn}), act_ = floats(pairs, c.ffn);
  rows_ = rows;
}

void ExpertPass::run(const MoeWeights& weights, const Tensor& x, Tensor out) {
  const std::int64_t rows = x.dim(0), pairs = rows * config_.moe.per_token;
  if (rows > rows_) take(rows);
  const Tensor logits = logits_.rows(0, rows), weight = weight_.rows(0, rows);
  const Tensor expert = expert_.rows(0, rows), token = token_.rows(0, pairs);
  const Tensor place = place_.rows(0, pairs), grouped = grouped_.rows(0, pairs);
  const Tensor gate_up = gate_up_.rows(0, pairs), act = act_.rows(0, pairs);
  ops::linear(stream_, x, weights.router, logits);
  ops::moe_route(stream_, logits, config_.moe.renormalise, expert, weight);
  ops::moe_group(stream_, expert, token, place, begin_);
  ops::gather_rows(stream_, x, token, grouped);
  ops::grouped_linear(stream_, grouped, weights.gate_up, begin_, gate_up);
  ops::silu_mul(stream_, gate_up, act);
  ops::grouped_linear(stream_, act, weights.down, begin_, grouped);
  ops::moe_combine(stream_, grouped, place, weight, out);
}

}  // namespace dream_r
