#include "model/plan.h"

#include <algorithm>
#include <utility>

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
  const auto blocks = static_cast<std::int32_t>(kv.k(0).dim(0));  // the spare one too
  check_table(row.prefix, row.prefix.length, blocks, "a row's prefix");
  check_table(row.own, row.own.length + static_cast<std::int64_t>(row.tokens.size()), blocks,
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

// Whole numbers, laid out one tensor after the other: written in host memory, read where the model
// is. On the CPU both are the same memory.
class Numbers {
 public:
  Numbers(Arena& arena, std::int64_t size) : there_(arena.take({size}, DType::i32)) {
    host_ = arena.device().on_cuda() ? Tensor::empty({size}, DType::i32) : there_;
  }
  struct Piece {
    std::int32_t* host;
    Tensor there;
  };
  Piece take(std::int64_t n) {
    const std::int64_t begin = std::exchange(used_, used_ + n);
    return {host_.data<std::int32_t>() + begin, there_.rows(begin, used_)};
  }
  void align() { used_ += used_ % 2; }  // to 8 bytes
  void upload(Stream& stream) const {
    if (host_.device() == there_.device() || used_ == 0) return;
    ops::copy(stream, host_.rows(0, used_), there_.rows(0, used_));
  }

 private:
  Tensor there_, host_;
  std::int64_t used_ = 0;
};

bool is_visual(std::int32_t feature_row) { return feature_row >= 0; }

class Planner {
 public:
  Planner(Arena& arena, const KvStore& kv, const Batch& batch, const ModelConfig& config)
      : batch_(batch),
        config_(config),
        rows_(list_rows(kv), config.text.heads / config.text.kv_heads),
        numbers_(arena, size()),
        on_cuda_(arena.device().on_cuda()) {}

  Plan make(Stream& stream) {
    ids_ = numbers_.take(plan_.tokens);
    positions_ = numbers_.take(3 * plan_.tokens);
    slots_ = numbers_.take(plan_.tokens);
    for (std::size_t r = 0; r < batch_.rows.size(); ++r) add_row(batch_.rows[r], plan_.first[r]);
    add_wanted();
    for (std::size_t r = 0; r < batch_.rows.size(); ++r)
      add_visuals(batch_.rows[r], plan_.first[r]);
    add_attention();
    plan_.ids = ids_.there, plan_.slots = slots_.there;
    plan_.positions = positions_.there.view({plan_.tokens, 3});
    numbers_.upload(stream);
    return std::move(plan_);
  }

 private:
  // Checks the rows, and counts what they want.
  std::span<const ops::AttentionRow> list_rows(const KvStore& kv) {
    for (const BatchRow& row : batch_.rows) {
      check_row(row, kv, config_);
      plan_.first.push_back(plan_.tokens);
      const std::size_t n = row.tokens.size();
      if (n > 0)
        plan_.row_list.push_back({static_cast<std::int32_t>(plan_.tokens),
                                  static_cast<std::int32_t>(n), row.prefix.table, row.prefix.length,
                                  row.own.table, row.own.length});
      plan_.tokens += static_cast<std::int64_t>(n);
      visuals_ += std::count_if(row.feature_rows.begin(), row.feature_rows.end(), is_visual);
    }
    for (const LogitsWanted& w : batch_.wanted) {
      DR_CHECK(w.row >= 0 && static_cast<std::size_t>(w.row) < batch_.rows.size() && w.token >= 0 &&
               static_cast<std::size_t>(w.token) < batch_.rows[w.row].tokens.size())
          << "logits wanted of row " << w.row << ", token " << w.token << ", which is not there";
      ++(w.keywords ? plan_.keywords : plan_.full);
    }
    return plan_.row_list;
  }

  std::int64_t size() const {
    const std::size_t attention = rows_.capacity() / sizeof(std::int32_t) + 1;
    return 5 * plan_.tokens + plan_.full + plan_.keywords + 2 * visuals_ +
           static_cast<std::int64_t>(attention) + 1;
  }

  void add_row(const BatchRow& row, std::int64_t first) {
    std::copy(row.tokens.begin(), row.tokens.end(), ids_.host + first);
    for (std::size_t i = 0; i < row.tokens.size(); ++i) {
      const std::int64_t t = first + static_cast<std::int64_t>(i);
      std::copy(row.positions[i].begin(), row.positions[i].end(), positions_.host + 3 * t);
      const std::int32_t j = row.own.length + static_cast<std::int32_t>(i);
      slots_.host[t] = row.own.table[j / kBlock] * kBlock + j % kBlock;
    }
  }

  void add_visuals(const BatchRow& row, std::int64_t first) {
    const auto n = std::count_if(row.feature_rows.begin(), row.feature_rows.end(), is_visual);
    if (n == 0) return;
    check_features(row.features, config_);
    const Numbers::Piece source = numbers_.take(n), target = numbers_.take(n);
    bool consecutive = true;
    std::int64_t at = 0;
    for (std::size_t i = 0; i < row.feature_rows.size(); ++i) {
      const std::int32_t f = row.feature_rows[i];
      if (!is_visual(f)) continue;
      DR_CHECK(f < row.features->embeds.dim(0))
          << "feature row " << f << " of " << row.features->embeds.dim(0);
      source.host[at] = f;
      target.host[at] = static_cast<std::int32_t>(first + static_cast<std::int64_t>(i));
      consecutive = consecutive && f == source.host[0] + at;
      ++at;
    }
    plan_.visuals.push_back(
        {row.features, source.host[0], consecutive ? Tensor() : source.there, target.there});
  }

  void add_wanted() {
    const std::int64_t count = plan_.full + plan_.keywords;
    const Numbers::Piece wanted = numbers_.take(count);
    std::int64_t full = 0, keywords = plan_.full;
    for (const LogitsWanted& w : batch_.wanted)
      wanted.host[(w.keywords ? keywords : full)++] =
          static_cast<std::int32_t>(plan_.first[static_cast<std::size_t>(w.row)] + w.token);
    plan_.wanted = wanted.there;
    if (!on_cuda_ && count < plan_.tokens)
      plan_.last_list = ops::rows_of_tokens(plan_.row_list, {wanted.host, wanted.host + count});
  }

  void add_attention() {
    plan_.rows = ops::AttentionRows(plan_.row_list);
    plan_.last_rows = plan_.last_list.empty() ? plan_.rows : ops::AttentionRows(plan_.last_list);
    if (!on_cuda_) return;
    numbers_.align();
    const auto n = static_cast<std::int64_t>(rows_.bytes() / sizeof(std::int32_t));
    const Numbers::Piece piece = numbers_.take(n);
    plan_.rows =
        rows_.write(reinterpret_cast<std::byte*>(piece.host), piece.there.data<std::byte>());
    plan_.last_rows = plan_.rows;
  }

  const Batch& batch_;
  const ModelConfig& config_;
  Plan plan_;
  std::int64_t visuals_ = 0;  // image tokens
  ops::AttentionUpload rows_;
  Numbers numbers_;
  bool on_cuda_;
  Numbers::Piece ids_, positions_, slots_;
};

}  // namespace

Plan make_plan(Stream& stream, Arena& arena, const KvStore& kv, const Batch& batch,
               const ModelConfig& config) {
  return Planner(arena, kv, batch, config).make(stream);
}

}  // namespace dream_r
