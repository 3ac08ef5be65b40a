#include "model/plan.h"

#include <algorithm>

namespace dream_r {
namespace {

constexpr int kBlock = KvStore::kBlock;

// Block ids are indices into memory: one out of range must not get as far as a kernel.
void check_table(const KvSpan& span, std::int64_t tokens, std::int32_t blocks, const char* what) {
  DR_CHECK(span.length >= 0) << what << " of " << span.length << " tokens";
  const std::int64_t entries = (tokens + kBlock - 1) / kBlock;
  DR_CHECK(entries == 0 || span.table) << what << " without a block table";
  for (std::int64_t i = 0; i < entries; ++i)
    DR_CHECK(span.table[i] >= 0 && span.table[i] < blocks)
        << what << ": block " << span.table[i] << " of " << blocks;
}

void check_row(const BatchRow& row, const KvStore& kv, const ModelConfig& config) {
  DR_CHECK(row.positions.size() == row.tokens.size())
      << row.tokens.size() << " tokens, " << row.positions.size() << " positions";
  DR_CHECK(row.feature_rows.empty() || row.feature_rows.size() == row.tokens.size())
      << row.tokens.size() << " tokens, " << row.feature_rows.size() << " feature rows";
  check_table(row.prefix, row.prefix.length, kv.blocks(), "a row's prefix");
  check_table(row.own, row.own.length + static_cast<std::int64_t>(row.tokens.size()), kv.blocks(),
              "a row's own tokens");
  for (const std::int32_t id : row.tokens)
    DR_CHECK(id >= 0 && id < config.text.vocab) << "token id " << id << " of " << config.text.vocab;
}

void check_features(const ImageFeatures* f, const ModelConfig& config) {
  DR_CHECK(f && f->embeds.defined()) << "feature rows without image features";
  const Shape wanted{f->embeds.dim(0), config.text.hidden};
  bool good =
      f->embeds.shape() == wanted && f->deepstack.size() == config.vision.deepstack_layers.size();
  for (const Tensor& t : f->deepstack) good = good && t.shape() == wanted;
  DR_CHECK(good) << "image features " << f->embeds.shape().str() << " with " << f->deepstack.size()
                 << " deepstack levels do not fit the model";
}

class Planner {
 public:
  Planner(Arena& arena, const KvStore& kv, const Batch& batch, const ModelConfig& config)
      : arena_(arena), kv_(kv), batch_(batch), config_(config) {}

  Plan make() {
    for (const BatchRow& row : batch_.rows) {
      check_row(row, kv_, config_);
      plan_.first.push_back(plan_.tokens);
      plan_.tokens += static_cast<std::int64_t>(row.tokens.size());
    }
    plan_.ids = arena_.take({plan_.tokens}, DType::i32);
    plan_.positions = arena_.take({plan_.tokens, 3}, DType::i32);
    plan_.slots = arena_.take({plan_.tokens}, DType::i32);
    for (std::size_t r = 0; r < batch_.rows.size(); ++r) add_row(batch_.rows[r], plan_.first[r]);
    add_wanted();
    return std::move(plan_);
  }

 private:
  void add_row(const BatchRow& row, std::int64_t first) {
    const std::size_t n = row.tokens.size();
    if (n == 0) return;
    std::copy(row.tokens.begin(), row.tokens.end(), plan_.ids.data<std::int32_t>() + first);
    auto* position = plan_.positions.data<Position>() + first;
    std::copy(row.positions.begin(), row.positions.end(), position);
    auto* slot = plan_.slots.data<std::int32_t>() + first;
    for (std::size_t i = 0; i < n; ++i) {
      const std::int32_t j = row.own.length + static_cast<std::int32_t>(i);
      slot[i] = row.own.table[j / kBlock] * kBlock + j % kBlock;
    }
    plan_.rows.push_back({static_cast<std::int32_t>(first), static_cast<std::int32_t>(n),
                          row.prefix.table, row.prefix.length, row.own.table, row.own.length});
    add_visuals(row, first);
  }

  void add_visuals(const BatchRow& row, std::int64_t first) {
    const auto is_visual = [](std::int32_t f) { return f >= 0; };
    const auto n = std::count_if(row.feature_rows.begin(), row.feature_rows.end(), is_visual);
    if (n == 0) return;
    check_features(row.features, config_);
    VisualSpan span;
    span.features = row.features;
    span.source = arena_.take({n}, DType::i32);
    span.target = arena_.take({n}, DType::i32);
    auto* source = span.source.data<std::int32_t>();
    auto* target = span.target.data<std::int32_t>();
    bool consecutive = true;
    std::int64_t at = 0;
    for (std::size_t i = 0; i < row.feature_rows.size(); ++i) {
      const std::int32_t f = row.feature_rows[i];
      if (!is_visual(f)) continue;
      DR_CHECK(f < row.features->embeds.dim(0))
          << "feature row " << f << " of " << row.features->embeds.dim(0);
      source[at] = f;
      target[at] = static_cast<std::int32_t>(first + static_cast<std::int64_t>(i));
      consecutive = consecutive && f == source[0] + at;
      ++at;
    }
    span.begin = source[0];
    if (consecutive) span.source = Tensor();
    plan_.visuals.push_back(std::move(span));
  }

  void add_wanted() {
    for (const LogitsWanted& w : batch_.wanted) {
      DR_CHECK(w.row >= 0 && static_cast<std::size_t>(w.row) < batch_.rows.size() && w.token >= 0 &&
               static_cast<std::size_t>(w.token) < batch_.rows[w.row].tokens.size())
          << "logits wanted of row " << w.row << ", token " << w.token << ", which is not there";
      ++(w.keywords ? plan_.keywords : plan_.full);
    }
    plan_.wanted = arena_.take({plan_.full + plan_.keywords}, DType::i32);
    auto* token = plan_.wanted.data<std::int32_t>();
    std::int64_t full = 0, keywords = plan_.full;
    for (const LogitsWanted& w : batch_.wanted) {
      std::int64_t& at = w.keywords ? keywords : full;
      token[at] = static_cast<std::int32_t>(plan_.first[w.row] + w.token);
      plan_.logit_row.push_back(static_cast<std::int32_t>(at++));
    }
  }

  Arena& arena_;
  const KvStore& kv_;
  const Batch& batch_;
  const ModelConfig& config_;
  Plan plan_;
};

}  // namespace

Plan make_plan(Arena& arena, const KvStore& kv, const Batch& batch, const ModelConfig& config) {
  return Planner(arena, kv, batch, config).make();
}

}  // namespace dream_r
