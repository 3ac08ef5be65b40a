#include "model/vl_model.h"

#include "model/graphs.h"
#include "model/layers.h"
#include "model/padding.h"
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
                               const LinearWeight& keywords, Graphs* graphs) const {
  check_kv(kv.shape(), config_.text);
  if (!graphs || !PaddedBatch::fits(stream, batch, config_.text))
    return compute(stream, arena, kv, batch, keywords, graphs);
  const PaddedBatch padded(batch, kv);
  return padded.cut(compute(stream, arena, kv, padded.batch(), keywords, graphs));
}

ForwardResult VlModel::compute(Stream& stream, Arena& arena, KvStore& kv, const Batch& batch,
                               const LinearWeight& keywords, Graphs* graphs) const {
  arena.reset();
  const Plan plan = make_plan(stream, arena, kv, batch, config_);
  DR_CHECK(plan.keywords == 0 || keywords.defined()) << "keyword logits without a keyword head";
  if (plan.tokens == 0) return {};
  const auto pass = [&] { return run(stream, arena, kv, plan, keywords); };
  return graphs && Graphs::fit(stream, plan) ? graphs->run(stream, arena, plan, pass) : pass();
}

ForwardResult VlModel::run(Stream& stream, Arena& arena, KvStore& kv, const Plan& plan,
                           const LinearWeight& keywords) const {
  TextPass pass(stream, arena, kv, config_.text, plan);
  const Tensor hidden = pass.run(text_, inv_freq_);
  const auto logits = [&](const LinearWeight& head, std::int64_t begin, std::int64_t end) {
    if (begin == end) return Tensor();
    Tensor out = arena.take({end - begin, head.n}, DType::f32);
    ops::linear(stream, hidden.rows(begin, end), head, out);
    return out;
  };
  ForwardResult result{.full = logits(text_.head, 0, plan.full),
                       .keywords = logits(keywords, plan.full, plan.full + plan.keywords),
                       .residual = pass.residual(),
                       .attended = pass.attended(),
                       .first = plan.first};
  if (!plan.last_list.empty()) result.qkv = pass.qkv(), result.rows = plan.row_list;
  return result;
}

Tensor VlModel::late_logits(Stream& stream, Arena& arena, KvStore& kv, const ForwardResult& result,
                            std::span<const LogitsWanted> wanted) const {
  if (!result.residual.defined() || wanted.empty()) return {};
  const auto n = static_cast<std::int64_t>(wanted.size());
  Tensor host = Tensor::empty({n}, DType::i32), tokens = arena.take({n}, DType::i32);
  auto* token = host.data<std::int32_t>();
  for (const LogitsWanted& w : wanted)
    *token++ =
        static_cast<std::int32_t>(result.first.at(static_cast<std::size_t>(w.row))) + w.token;
  ops::copy(stream, host, tokens);
  const Plan none;
  TextPass pass(stream, arena, kv, config_.text, none);
  if (!result.rows.empty()) {
    const auto* ids = host.data<std::int32_t>();
    const auto rows = ops::rows_of_tokens(result.rows, {ids, ids + n});
    pass.attend_late(result.qkv, rows, result.attended);
  }
  const Tensor hidden = pass.finish(text_, result.residual, result.attended, tokens);
  Tensor logits = arena.take({n, config_.text.vocab}, DType::f32);
  ops::linear(stream, hidden, text_.head, logits);
  return logits;
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

Device VlModel::device() const { return text_.embedding.packed.device(); }

KvShape VlModel::kv_shape() const {
  const auto& t = config_.text;
  const LinearWeight& w = text_.embedding;
  const DType dtype = w.packed.dtype();
  return {t.layers, t.kv_heads, t.head_dim, dtype == DType::i32 ? DType::bf16 : dtype};
}

}  // namespace dream_r
