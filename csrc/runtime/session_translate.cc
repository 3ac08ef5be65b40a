// A pair of two tokenizers: the draft keeps a trace of its own, and steps are translated at their
// boundaries, one at a time, a committed step of the target before all drafted ones (there are none
// while it waits). A step's translation is a function of its tokens alone, whatever waits beside
// it.
#include <algorithm>

#include "runtime/session.h"

namespace dream_r {

void Session::start_translate() {
  if (!draft_tokens_ || translation_) return;
  WorkPtr work;
  if (behind()) {
    const auto step = steps_ - static_cast<std::int32_t>(untranslated_.size());
    work = make_work(Role::target, WorkKind::translate, step);
    work->feed = untranslated_.front();
  } else {
    const auto c = std::find_if(window_.begin(), window_.end(), [](const Candidate& candidate) {
      return candidate.state == Candidate::State::translating;
    });
    if (c == window_.end()) return;
    work = make_work(Role::draft, WorkKind::translate, c->index);
    work->feed = c->draft_tokens;
  }
  translation_ = work->id;
  launch(work, KvSequence());
}

void Session::on_translated(Work& work) {
  translation_.reset();
  ++metrics_.translated;
  if (work.role == Role::target) {
    draft_trace_.insert(draft_trace_.end(), work.tokens.begin(), work.tokens.end());
    last_step_ = std::move(work.tokens);
    return untranslated_.pop_front();
  }
  const auto at = static_cast<std::size_t>(work.step - steps_);
  Candidate& c = window_.at(at);
  c.tokens = std::move(work.tokens);
  c.state = Candidate::State::waiting;
  if (is_step(c)) return;
  // Rejected without a pass, and what the draft wrote after it meanwhile goes with it.
  c.state = Candidate::State::judged;
  c.skipped = true;
  ++metrics_.skipped;
  cut_window(at + 1);
  end_drafted_ = true;
}

// A translated step that the target could have written itself: within its limits (a drafted step is
// never cut to fit: no judge was taught to grade a piece of one), and ending as the draft meant it.
bool Session::is_step(const Candidate& c) const {
  const auto most = static_cast<std::size_t>(options_.max_step_tokens);
  if (c.tokens.empty() || c.tokens.size() > most || speculative_tokens() > budget_left())
    return false;
  const auto& never = vocabulary_.suppressed;
  std::uint8_t read = 0;
  return std::all_of(c.tokens.begin(), c.tokens.end(), [&](const std::int32_t& t) {
    const bool ends = c.end == StepEnd::think_end && &t == &c.tokens.back();
    return vocabulary_.ends_thinking(t, read) == ends && !vocabulary_.is_eos(t) &&
           !std::binary_search(never.begin(), never.end(), t);
  });
}

// Most tokens of the draft after its window: what is left of the budget, or, in tokens of its own,
// of its positions. The second is known before any translation is, so that no clock decides it.
std::int32_t Session::draft_room() const {
  if (!draft_tokens_) return budget_left() - speculative_tokens();
  auto read = spec_->draft.ids.size() + draft_trace_.size();
  for (const Candidate& c : window_) read += c.draft_tokens.size();
  return draft_tokens_->positions - static_cast<std::int32_t>(read);
}

}  // namespace dream_r
