// Drafter and Corrector: the same burst on different lanes.
#include <algorithm>
#include <utility>

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
    ahead_ = work_->proposed;
  }

  void plan(Pass& pass) override {
    const auto known = static_cast<std::int32_t>(pending_.size());
    const auto chosen = static_cast<std::int32_t>(work_->tokens.size() - work_->head.size());
    const std::size_t seen = seen_.size();
    pending_.insert(pending_.end(), ahead_.begin(), ahead_.end());
    if (work_->spec->has_penalties()) seen_.insert(seen_.end(), ahead_.begin(), ahead_.end());
    positions_.clear();
    append_positions(written_, written_ + static_cast<std::int32_t>(pending_.size()));
    BatchRow row;
    row.tokens = pending_;
    row.positions = positions_;
    row.own = own();
    const std::int32_t index = pass.add(row);
    draws_.clear();
    for (std::int32_t i = 0; i <= static_cast<std::int32_t>(ahead_.size()); ++i)
      draws_.push_back(pass.draw(index, known - 1 + i,
                                 draw(work_->step, work_->first_token + chosen + i,
                                      std::min(seen + static_cast<std::size_t>(i), seen_.size()))));
  }

  void take(Pass& pass) override {
    const std::vector<std::int32_t> ahead = std::exchange(ahead_, {});
    written_ += static_cast<std::int32_t>(pending_.size() - ahead.size());
    if (work_->spec->has_penalties()) seen_.resize(seen_.size() - ahead.size());
    for (std::size_t i = 0; !finished_; ++i) {
      pending_.clear();
      const std::int32_t token = pass.drawn(draws_[i]);
      append(token);
      if (i == ahead.size() || token != ahead[i]) return;
      ++work_->agreed;
      ++written_;  // the pass has read it
    }
  }

 private:
  // One more token of the step; it is read by the model at the next forward, if there is one.
  void append(std::int32_t token) {
    work_->tokens.push_back(token);
    if (work_->spec->has_penalties()) seen_.push_back(token);
    pending_.push_back(token);
    work_->written = written_ + static_cast<std::int32_t>(pending_.size()) - 1;
    const auto length = static_cast<std::int32_t>(work_->tokens.size());
    if (const auto& script = context_.options.script) {
      if (!work_->answer && length == step_tokens(*script, *work_->spec, work_->step))
        return end(StepEnd::boundary);
    } else if (work_->answer) {
      if (context_.vocabulary.is_eos(token)) return end(StepEnd::eos);
    } else if (scanner_.push(token)) {
      return end(scanner_.end());
    }
    if (length >= work_->limit) end(StepEnd::limit);
  }

  void end(StepEnd why) {
    work_->end = why;
    finished_ = true;
  }

  StepScanner scanner_;
  std::vector<std::int32_t> pending_;  // known and not yet read
  std::vector<std::int32_t> ahead_;    // proposed to follow them, in the first pass alone
  std::vector<std::size_t> draws_;     // of the pass: the token after `pending_`, after each ahead
};

}  // namespace

std::unique_ptr<Burst> make_decode(WorkPtr work, const BurstContext& context) {
  return std::make_unique<Decode>(std::move(work), context);
}

}  // namespace dream_r
