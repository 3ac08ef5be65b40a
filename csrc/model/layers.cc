#include "model/layers.h"

#include <cmath>

namespace dream_r {

std::vector<float> inverse_frequencies(double theta, int dim) {
  std::vector<float> out;
  for (int i = 0; i < dim; i += 2) {
    const float exponent = static_cast<float>(i) / static_cast<float>(dim);
    const float power = static_cast<float>(std::pow(theta, static_cast<double>(exponent)));
    out.push_back(1.0f / power);
  }
  return out;
}

TextPass::TextPass(Stream& stream, Arena& arena, KvStore& kv, const TextConfig& config,
                   const Plan& plan)
    : stream_(stream),
      arena_(arena),
      kv_(kv),
      config_(config),
      plan_(plan),
      heads_{config.heads, config.kv_heads, config.head_dim},
      experts_(stream, arena, config) {}

Tensor TextPass::take(std::int64_t rows, std::int64_t columns) {
  return arena_.take({rows, columns}, DType::f32);
}

Tensor TextPass::gathered(const Tensor& x, const Tensor& rows) {
  Tensor out = take(rows.dim(0), x.dim(1));
  ops::gather_rows(stream_, x, rows, out);
  return out;
}

Tensor TextPass::feature_rows(const VisualSpan& span, const Tensor& features) {
  const std::int64_t n = span.target.dim(0);
  if (!span.source.defined()) return features.rows(span.begin, span.begin + n);
  Tensor out = take(n, features.dim(1));
  ops::gather_rows(stream_, features, span.source, out);
  return out;
}

void TextPass::embed(const TextWeights& weights) {
  ops::embedding(stream_, plan_.ids, weights.embedding, x_);
  for (const VisualSpan& span : plan_.visuals)
    ops::scatter_rows(stream_, feature_rows(span, span.features->embeds), span.target, x_);
}

void TextPass::turn_and_store(const TextLayer& layer, int index) {
  ops::linear(stream_, normed_, layer.qkv, qkv_);
  ops::qk_norm_rope_write(stream_, qkv_, heads_, layer.q_norm, layer.k_norm, config_.rms_eps, cos_,
                          sin_, plan_.slots, {kv_.k(index), kv_.v(index)});
}

void TextPass::attend(int index, const ops::AttentionRows& rows) {
  ops::attention(stream_, qkv_, heads_, {kv_.k(index), kv_.v(index)}, rows, attended_);
}

void TextPass::attend_late(const Tensor& qkv, const ops::AttentionRows& rows,
                           const Tensor& attended) {
  qkv_ = qkv, attended_ = attended;
  attend(config_.layers - 1, rows);
}

void TextPass::mix(const TextLayer& layer) {
  ops::linear(stream_, attended_, layer.o, delta_);
  ops::add_rms_norm(stream_, x_, delta_, layer.post_norm, config_.rms_eps, normed_);
  if (!layer.moe.gate_up.empty()) return experts_.run(layer.moe, normed_, delta_);
  ops::linear(stream_, normed_, layer.gate_up, gate_up_);
  ops::silu_mul(stream_, gate_up_, act_);
  ops::linear(stream_, act_, layer.down, delta_);
}

bool TextPass::deepstack(int index) const {
  for (const VisualSpan& span : plan_.visuals)
    if (static_cast<std::size_t>(index) < span.features->deepstack.size()) return true;
  return false;
}

// Added to the layer's delta and not to the residual: a token without an image then takes the same
// path whether or not another row of the batch has one.
void TextPass::add_deepstack(int index) {
  for (const VisualSpan& span : plan_.visuals) {
    if (static_cast<std::size_t>(index) >= span.features->deepstack.size()) continue;
    const Tensor rows =
        feature_rows(span, span.features->deepstack[static_cast<std::size_t>(index)]);
    ops::scatter_add_rows(stream_, rows, span.target, delta_);
  }
}

Tensor TextPass::run(const TextWeights& weights, std::span<const float> inv_freq) {
  const std::int64_t n = plan_.tokens, wanted = plan_.wanted.dim(0);
  const std::int64_t hidden = config_.hidden, ffn = config_.ffn;
  x_ = take(n, hidden), normed_ = take(n, hidden), delta_ = take(n, hidden);
  qkv_ = take(n, std::int64_t{heads_.q + 2 * heads_.kv} * heads_.dim);
  attended_ = take(n, std::int64_t{heads_.q} * heads_.dim);
  gate_up_ = take(n, 2 * ffn), act_ = take(n, ffn);
  cos_ = take(n, heads_.dim / 2), sin_ = take(n, heads_.dim / 2);
  ops::mrope_table(stream_, plan_.positions, inv_freq, config_.mrope_layout, config_.mrope_sections,
                   cos_, sin_);
  embed(weights);
  ops::rms_norm(stream_, x_, weights.layers[0].input_norm, config_.rms_eps, normed_);
  const int last = config_.layers - 1;
  for (int i = 0; i <= last; ++i) {
    const TextLayer& layer = weights.layers[static_cast<std::size_t>(i)];
    const bool stacked = deepstack(i);
    turn_and_store(layer, i);
    if (i == last && wanted == 0) return Tensor();
    const bool ends = i == last && !stacked;  // from here on a token matters to itself alone
    attend(i, ends ? plan_.last_rows : plan_.rows);
    if (ends) {
      residual_ = x_, all_attended_ = attended_;
      return finish(weights, residual_, all_attended_, plan_.wanted);
    }
    mix(layer);
    if (stacked) add_deepstack(i);
    if (i < last)
      ops::add_rms_norm(stream_, x_, delta_,
                        weights.layers[static_cast<std::size_t>(i) + 1].input_norm, config_.rms_eps,
                        normed_);
    else if (stacked)
      x_ = gathered(x_, plan_.wanted), delta_ = gathered(delta_, plan_.wanted);
  }
  normed_ = take(wanted, hidden);
  ops::add_rms_norm(stream_, x_, delta_, weights.norm, config_.rms_eps, normed_);
  return normed_;
}

Tensor TextPass::finish(const TextWeights& weights, const Tensor& residual, const Tensor& attended,
                        const Tensor& wanted) {
  const std::int64_t n = wanted.dim(0), hidden = config_.hidden, ffn = config_.ffn;
  x_ = gathered(residual, wanted), attended_ = gathered(attended, wanted);
  normed_ = take(n, hidden), delta_ = take(n, hidden);
  gate_up_ = take(n, 2 * ffn), act_ = take(n, ffn);
  mix(weights.layers.back());
  ops::add_rms_norm(stream_, x_, delta_, weights.norm, config_.rms_eps, normed_);
  return normed_;
}

}  // namespace dream_r
