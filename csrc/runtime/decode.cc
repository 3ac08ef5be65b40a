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

  void plan(Pass& pass) override {
    positions_.clear();
    append_positions(written_, written_ + static_cast<std::int32_t>(pending_.size()));
    BatchRow row;
    row.tokens = pending_;
    row.positions = positions_;
    row.own = own();
    const auto chosen = static_cast<std::int32_t>(work_->tokens.size() - work_->head.size());
    next_ = pass.draw(pass.add(row), static_cast<std::int32_t>(pending_.size()) - 1,
                      draw(work_->step, work_->first_token + chosen, seen_.size()));
  }

  void take(Pass& pass) override {
    written_ += static_cast<std::int32_t>(pending_.size());
    pending_.clear();
    append(pass.drawn(next_));
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
  std::vector<std::int32_t> pending_;
  std::size_t next_ = 0;  // of the pass
};

}  // namespace

std::unique_ptr<Burst> make_decode(WorkPtr work, const BurstContext& context) {
  return std::make_unique<Decode>(std::move(work), context);
}

}  // namespace dream_r
