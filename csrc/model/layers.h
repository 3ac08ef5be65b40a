#pragma once
// One pass of the text decoder over a Plan. Every layer writes the KV of all rows before any row
// attends, so a row may have another row's new tokens as its prefix.
#include <span>
#include <vector>

#include "core/arena.h"
#include "model/moe.h"
#include "model/plan.h"
#include "model/weights.h"

namespace dream_r {

// theta^(-2i/dim) for i < dim/2, rounded as transformers rounds it: exponent, power and reciprocal
// each in f32. At position 10^4 one ulp more or less turns a head by 10^-3.
std::vector<float> inverse_frequencies(double theta, int dim);

class TextPass {
 public:
  TextPass(Stream& stream, Arena& arena, KvStore& kv, const TextConfig& config, const Plan& plan);
  // The final-norm hidden states of the wanted tokens, f32 [wanted, hidden]; undefined when none
  // is.
  Tensor run(const TextWeights& weights, std::span<const float> inv_freq);
  // The last layer's attention of `rows`, those of the tokens that run() had left out: from its
  // qkv() to its attended().
  void attend_late(const Tensor& qkv, const ops::AttentionRows& rows, const Tensor& attended);
  // What run() makes of its last layer: the tokens `wanted` (i32 [n]) of its residual and of what
  // it attended, through the rest of that layer and the final norm.
  Tensor finish(const TextWeights& weights, const Tensor& residual, const Tensor& attended,
                const Tensor& wanted);
  // Of all tokens, for finish(); undefined where run() could not use it. Attended are those of the
  // plan's last_rows.
  const Tensor& residual() const { return residual_; }
  const Tensor& attended() const { return all_attended_; }
  const Tensor& qkv() const { return qkv_; }

 private:
  void embed(const TextWeights& weights);
  void turn_and_store(const TextLayer& layer, int index);  // normed -> qkv, and its KV to the cache
  void attend(int index, const ops::AttentionRows& rows);  // qkv -> attended
  void mix(const TextLayer& layer);                        // attended, x -> delta
  bool deepstack(int index) const;
  void add_deepstack(int index);
  Tensor feature_rows(const VisualSpan& span, const Tensor& features);
  Tensor gathered(const Tensor& x, const Tensor& rows);
  Tensor take(std::int64_t rows, std::int64_t columns);

  Stream& stream_;
  Arena& arena_;
  KvStore& kv_;
  const TextConfig& config_;
  const Plan& plan_;
  ops::Heads heads_;
  Tensor x_;               // residual [rows, hidden]
  Tensor normed_, delta_;  // [rows, hidden]
  Tensor qkv_, attended_;  // [rows, (q + 2 kv) * dim], [rows, q * dim]
  Tensor gate_up_, act_;   // [rows, 2 ffn], [rows, ffn]
  Tensor cos_, sin_;       // [tokens, dim / 2]
  Tensor residual_, all_attended_;
  ExpertPass experts_;
};

}  // namespace dream_r
