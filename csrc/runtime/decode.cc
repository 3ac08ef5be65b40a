// Drafter and Corrector: the same burst on different lanes.
#include "runtime/burst.h"

namespace dream_r {

namespace {

class Decode : public Burst {
 public:
  Decode(WorkPtr work, const BurstContext& context)
      : Burst(std::move(work), context), scanner_(context.vocabulary), pending_(work_->feed) {
    for (std::int32_t token : work_->head) {
      pending_.clear();  // read, all but the last
      append(token);
    }
  }

  void plan(Batch& batch) override {
    positions_.clear();
    append_positions(written_, written_ + static_cast<std::int32_t>(pending_.size()));
    BatchRow row;
    row.tokens = pending_;
    row.positions = positions_;
    row.own = own();
    batch.rows.push_back(row);
    batch.wanted.push_back({static_cast<std::int32_t>(batch.rows.size()) - 1,
                            static_cast<std::int32_t>(pending_.size()) - 1, false});
  }

  void take(std::span<const std::span<float>> logits, const LateLogits&) override {
    written_ += static_cast<std::int32_t>(pending_.size());
    pending_.clear();
    const auto chosen = static_cast<std::int32_t>(work_->tokens.size() - work_->head.size());
    append(sample(logits[0], work_->step, work_->first_token + chosen));
  }

 private:
  // One more token of the step; it is read by the model at the next forward, if there is one.
  void append(std::int32_t token) {
    work_->tokens.push_back(token);
    if (work_->spec->has_penalties()) seen_.push_back(token);
    pending_.push_back(token);
    work_->written = written_ + static_cast<std::int32_t>(pending_.size()) - 1;
    if (work_->answer) {
      if (context_.vocabulary.is_eos(token)) return end(StepEnd::eos);
    } else if (scanner_.push(token)) {
      return end(scanner_.end());
    }
    if (static_cast<std::int32_t>(work_->tokens.size()) >= work_->limit) end(StepEnd::limit);
  }

  void end(StepEnd why) {
    work_->end = why;
    finished_ = true;
  }

  StepScanner scanner_;
  std::vector<std::int32_t> pending_;
};

}  // namespace

std::unique_ptr<Burst> make_decode(WorkPtr work, const BurstContext& context) {
  return std::make_unique<Decode>(std::move(work), context);
}

}  // namespace dream_r
