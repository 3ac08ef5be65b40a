#include <algorithm>

#include "runtime/burst.h"

namespace dream_r {

namespace {

class Prefill : public Burst {
 public:
  using Burst::Burst;

  void plan(Batch& batch) override {
    const auto left = static_cast<std::int32_t>(work_->feed.size()) - fed_;
    take_ = std::min<std::int32_t>(left, context_.options.prefill_chunk);
    positions_.clear();
    append_positions(written_, written_ + take_);
    BatchRow row;
    row.tokens = std::span(work_->feed).subspan(fed_, take_);
    row.positions = positions_;
    row.own = own();
    if (!prompt_.feature_rows.empty()) {
      row.feature_rows = std::span(prompt_.feature_rows).subspan(written_, take_);
      const bool seen = std::any_of(row.feature_rows.begin(), row.feature_rows.end(),
                                    [](std::int32_t r) { return r >= 0; });
      if (seen && !features_)
        features_ = std::make_unique<ImageFeatures>(
            context_.model.encode_images(context_.stream, prompt_.patches, prompt_.grids));
      row.features = features_.get();
      if (!row.features) row.feature_rows = {};
    }
    batch.rows.push_back(row);
    last_ = take_ == left;
    if (last_ && work_->role == Role::target)
      batch.wanted.push_back({static_cast<std::int32_t>(batch.rows.size()) - 1, take_ - 1, false});
  }

  void take(std::span<const std::span<float>> logits, const LateLogits&) override {
    fed_ += take_;
    written_ += take_;
    work_->written = written_;
    if (!last_) return;
    if (!logits.empty()) work_->next_token = sample(logits[0], 0, 0);
    finished_ = true;
  }

 private:
  std::unique_ptr<ImageFeatures> features_;
  std::int32_t fed_ = 0, take_ = 0;
  bool last_ = false;
};

}  // namespace

std::unique_ptr<Burst> make_prefill(WorkPtr work, const BurstContext& context) {
  return std::make_unique<Prefill>(std::move(work), context);
}

}  // namespace dream_r
