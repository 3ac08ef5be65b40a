#include "model/vl_model.h"

#include "model/layers.h"
#include "model/plan.h"

namespace dream_r {
namespace {

void check_kv(const KvShape& kv, const TextConfig& text) {
  DR_CHECK(kv.layers == text.layers && kv.heads == text.kv_heads && kv.dim == text.head_dim)
      << "a cache of " << kv.layers << " layers, " << kv.heads << " x " << kv.dim
      << " heads for a model of " << text.layers << " layers, " << text.kv_heads << " x "
      << text.head_dim;
}

}  // namespace

VlModel::VlModel(ModelConfig config, TextWeights text, std::unique_ptr<const VisionTower> vision)
    : config_(std::move(config)),
      text_(std::move(text)),
      vision_(std::move(vision)),
      inv_freq_(inverse_frequencies(config_.text.rope_theta, config_.text.head_dim)) {}

ForwardResult VlModel::forward(Stream& stream, Arena& arena, KvStore& kv, const Batch& batch,
                               const LinearWeight& keywords) const {
  check_kv(kv.shape(), config_.text);
  arena.reset();
  const Plan plan = make_plan(arena, kv, batch, config_);
  DR_CHECK(plan.keywords == 0 || keywords.defined()) << "keyword logits without a keyword head";
  ForwardResult result;
  if (plan.tokens == 0) return result;
  TextPass pass(stream, arena, kv, config_.text, plan);
  const Tensor hidden = pass.run(text_, inv_freq_);
  result.residual = pass.residual(), result.attended = pass.attended();
  result.first = plan.first;
  Tensor full, few;
  if (plan.full > 0) {
    full = arena.take({plan.full, config_.text.vocab}, DType::f32);
    ops::linear(stream, hidden.rows(0, plan.full), text_.head, full);
  }
  if (plan.keywords > 0) {
    few = arena.take({plan.keywords, keywords.n}, DType::f32);
    ops::linear(stream, hidden.rows(plan.full, plan.full + plan.keywords), keywords, few);
  }
  for (const std::int64_t row : plan.logit_row) {
    const bool whole = row < plan.full;
    const Tensor& from = whole ? full : few;
    const std::int64_t width = from.dim(1), at = whole ? row : row - plan.full;
    result.logits.emplace_back(from.f32() + at * width, static_cast<std::size_t>(width));
  }
  return result;
}

std::vector<std::span<float>> VlModel::late_logits(Stream& stream, Arena& arena, KvStore& kv,
                                                   const ForwardResult& result,
                                                   std::span<const LogitsWanted> wanted) const {
  std::vector<std::span<float>> rows;
  if (!result.residual.defined() || wanted.empty()) return rows;
  const auto n = static_cast<std::int64_t>(wanted.size()), vocab = std::int64_t{config_.text.vocab};
  Tensor tokens = arena.take({n}, DType::i32);
  auto* token = tokens.data<std::int32_t>();
  for (const LogitsWanted& w : wanted)
    *token++ =
        static_cast<std::int32_t>(result.first.at(static_cast<std::size_t>(w.row))) + w.token;
  const Plan none;
  TextPass pass(stream, arena, kv, config_.text, none);
  const Tensor hidden = pass.finish(text_, result.residual, result.attended, tokens);
  Tensor logits = arena.take({n, vocab}, DType::f32);
  ops::linear(stream, hidden, text_.head, logits);
  for (std::int64_t i = 0; i < n; ++i)
    rows.emplace_back(logits.f32() + i * vocab, static_cast<std::size_t>(vocab));
  return rows;
}

ImageFeatures VlModel::encode_images(Stream& stream, const Tensor& patches,
                                     std::span<const std::array<std::int32_t, 3>> grid) const {
  DR_CHECK(vision_) << "this model has no vision tower";
  return vision_->encode(stream, patches, grid);
}

LinearWeight VlModel::keyword_head(std::span<const std::int32_t> ids) const {
  for (const std::int32_t id : ids)
    DR_CHECK(id >= 0 && id < config_.text.vocab)
        << "keyword " << id << " of " << config_.text.vocab;
  Stream stream(text_.head.packed.device());
  return select_rows(stream, text_.head, ids);
}

std::size_t VlModel::weight_bytes() const {
  return bytes_of(text_) + (vision_ ? vision_->weight_bytes() : 0);
}

KvShape VlModel::kv_shape() const {
  const auto& t = config_.text;
  const bool f32 = text_.embedding.format == WeightFormat::f32;
  return {t.layers, t.kv_heads, t.head_dim, f32 ? DType::f32 : DType::bf16};
}

}  // namespace dream_r
