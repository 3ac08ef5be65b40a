#include <algorithm>

#include "runtime/burst.h"

namespace dream_r {

namespace {

class Prefill : public Burst {
 public:
  using Burst::Burst;

  void plan(Pass& pass) override {
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
    const std::int32_t index = pass.add(row);
    last_ = take_ == left;
    if (last_ && draws()) next_ = pass.draw(index, take_ - 1, draw(0, 0, seen_.size()));
  }

  void take(Pass& pass) override {
    fed_ += take_;
    written_ += take_;
    work_->written = written_;
    if (!last_) return;
    if (draws()) work_->next_token = pass.drawn(next_);
    finished_ = true;
  }

 private:
  bool draws() const { return work_->role == Role::target; }

  std::unique_ptr<ImageFeatures> features_;
  std::int32_t fed_ = 0, take_ = 0;
  bool last_ = false;
  std::size_t next_ = 0;  // of the pass
};

}  // namespace

std::unique_ptr<Burst> make_prefill(WorkPtr work, const BurstContext& context) {
  return std::make_unique<Prefill>(std::move(work), context);
}

}  // namespace dream_r
