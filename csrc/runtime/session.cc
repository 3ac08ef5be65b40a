// Decisions: what a fact does to the trace. Starting work is in session_start.cc.
#include "runtime/session.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace dream_r {

Session::Session(RequestId id, std::shared_ptr<const RequestSpec> spec,
                 const EngineOptions& options, const Vocabulary& vocabulary,
                 const DraftTokens* draft_tokens, const Policy& policy, bool has_draft,
                 SessionHost& host)
    : id_(id),
      spec_(std::move(spec)),
      options_(options),
      vocabulary_(vocabulary),
      draft_tokens_(draft_tokens),
      policy_(policy),
      host_(host),
      window_limit_(has_draft ? policy.window() : 0) {}

void Session::done(Work& work) {
  auto it = std::find_if(in_flight_.begin(), in_flight_.end(),
                         [&](const auto& entry) { return entry.first == work.id; });
  DR_STATE(it != in_flight_.end()) << "work " << work.id << " is not of request " << id_;
  InFlight held = std::move(it->second);
  in_flight_.erase(it);
  if (work.copy) host_.pool(work.role).release(work.copy->src);
  auto& sampled = work.role == Role::draft ? metrics_.draft_tokens : metrics_.target_tokens;
  const bool text = work.kind == WorkKind::translate;                  // samples nothing
  const auto given = work.role == Role::draft ? work.head.size() : 0;  // the target chose it
  const auto written = text ? 0 : static_cast<std::int64_t>(work.tokens.size() - given);
  sampled += written;
  clock_ = work.finish;
  if (work.forwards > 0)
    metrics_.proposed_tokens += static_cast<std::int64_t>(work.proposed.size());
  metrics_.agreed_tokens += work.agreed;
  if (!held.current || phase_ == Phase::done || work.cancelled || !work.error.empty()) {
    (work.role == Role::draft ? metrics_.wasted_draft_tokens : metrics_.wasted_target_tokens) +=
        written;
    if (!held.current || phase_ == Phase::done) return;
    return work.error.empty() ? cancel() : fail(work.error);  // cancelled: the lane was stopped
  }
  switch (work.kind) {
    case WorkKind::prefill:
      return on_prefill(work, held);
    case WorkKind::verify:
      return on_verify(work, held);
    case WorkKind::translate:
      return on_translated(work);
    case WorkKind::decode:
      if (work.role == Role::draft && work.rewrites) return on_guess(work, held);
      if (work.role == Role::draft)
        return work.answer ? on_draft_answer(work) : on_draft(work, held);
      return work.answer ? on_answer(work, held) : on_own(work, held);
  }
}

// The branch with what the lane wrote; the blocks reserved beyond that go back to the pool.
KvSequence Session::take_written(InFlight& held) {
  held.kv.advance(held.work->written - held.kv.length());
  held.kv.truncate(held.kv.length());
  return std::move(held.kv);
}

void Session::on_prefill(Work& work, InFlight& held) {
  Trunk& trunk = work.role == Role::draft ? draft_ : target_;
  trunk.kv = take_written(held);
  trunk.ready = true;
  host_.remember_prefix(work.role, spec_->prompt(work.role), trunk.kv);
  if (work.role == Role::draft) return draft_prefill_.reset();
  target_prefill_.reset();
  trunk.next_token = work.next_token;
  phase_ = Phase::reasoning;
  if (spec_->thinking_budget == 0) end_reasoning(/*forced=*/true);
}

void Session::on_draft(Work& work, InFlight& held) {
  draft_work_.reset();
  ++metrics_.drafted;
  if (!window_.empty()) ++metrics_.ahead_drafted;
  Candidate c;
  c.index = work.step;
  (draft_tokens_ ? c.draft_tokens : c.tokens) = std::move(work.tokens);
  c.end = work.end;
  c.draft_kv = take_written(held);
  c.begin = work.begin, c.finish = work.finish;
  const auto& written = tokens_of(c, Role::draft);
  const auto& previous = window_.empty() ? last_step_ : tokens_of(window_.back(), Role::draft);
  // Cut at the cap for drafts that never end a step: no step at all, and no judge was taught to
  // grade a piece of one. (At max_step_tokens or at the budget it is verified as it is; the budget
  // counts the target's tokens, so a draft of other tokens is not cut there.)
  const auto room =
      draft_tokens_ ? options_.max_step_tokens : std::min(options_.max_step_tokens, draft_room());
  const bool capped = c.end == StepEnd::limit && work.limit < room;
  const auto& vocabulary = draft_tokens_ ? draft_tokens_->vocabulary : vocabulary_;
  const bool no_step =
      capped || c.end == StepEnd::eos || is_blank(vocabulary, written) || written == previous;
  c.skipped = no_step && !options_.script;
  c.state = draft_tokens_ ? Candidate::State::translating : Candidate::State::waiting;
  if (c.skipped) c.state = Candidate::State::judged, ++metrics_.skipped;
  end_drafted_ = c.skipped || c.end == StepEnd::think_end;
  window_.push_back(std::move(c));
}

void Session::on_draft_answer(Work& work) {
  draft_answer_work_.reset();
  draft_answer_ = std::move(work.tokens);
  if (work.end == StepEnd::eos) draft_answer_.pop_back();  // nothing is read after it
}

void Session::on_guess(Work& work, InFlight& held) {
  guess_work_.reset();
  Candidate c;
  c.index = work.step;
  c.tokens = std::move(work.tokens);
  c.own = work.head;
  c.end = work.end;
  c.draft_kv = take_written(held);
  c.state = Candidate::State::guessed;
  end_drafted_ = c.end != StepEnd::boundary;
  window_.push_back(std::move(c));
}

void Session::on_verify(Work& work, InFlight& held) {
  verify_work_.reset();
  KvSequence kv = take_written(held);
  std::int32_t length = work.cached + static_cast<std::int32_t>(work.feed.size());
  auto candidate = std::find_if(window_.begin(), window_.end(), [](const Candidate& c) {
    return c.state == Candidate::State::judging;
  });
  for (Judgement& j : work.judged) {
    DR_STATE(candidate != window_.end()) << "a verdict without its step in request " << id_;
    Candidate& c = *candidate++;
    length += static_cast<std::int32_t>(j.tokens.size());
    c.target_kv = kv.fork();
    c.target_kv.truncate(length);
    c.state = Candidate::State::judged;
    c.rho = j.rho;
    c.next_token = j.next_token;
    const bool sane = std::isfinite(j.rho);
    const bool answered = options_.min_mass <= 0 || j.mass >= options_.min_mass;
    metrics_.nan_verdicts += !sane;
    metrics_.low_mass_verdicts += !answered;
    c.accept = says_yes(options_, *spec_, c.index, j);
    c.own = std::move(j.own);
    if (!c.own.empty())
      c.target_kv.truncate(length - static_cast<std::int32_t>(j.tokens.size() - c.own.size()) - 1);
    ++metrics_.verified;
    if (&c != &window_.front()) ++metrics_.ahead_verified;
  }
}

void Session::on_own(Work& work, InFlight& held) {
  own_work_.reset();
  own_kv_ = take_written(held);
  last_own_ = std::move(work.tokens);
  own_end_ = work.end;
  own_ended_ = true;
  own_begin_ = work.begin, own_finish_ = work.finish;
}

void Session::on_answer(Work& work, InFlight& held) {
  own_work_.reset();
  target_.kv = take_written(held);
  target_.next_token = -1;
  auto tokens = std::move(work.tokens);
  const auto& drafted = draft_answer_;
  const auto kept =
      std::mismatch(drafted.begin(), drafted.end(), tokens.begin(), tokens.end()).first;
  metrics_.wasted_draft_tokens += drafted.end() - kept;
  draft_answer_.clear();
  const bool ended = work.end == StepEnd::eos;
  if (ended) tokens.pop_back();
  trace_.insert(trace_.end(), tokens.begin(), tokens.end());
  answer_tokens_ += static_cast<std::int32_t>(tokens.size());
  metrics_.answer_tokens = answer_tokens_;
  if (!tokens.empty()) host_.answered(id_, tokens);
  if (ended) return finish(FinishReason::stop);
  if (answer_tokens_ >= spec_->max_tokens) finish(FinishReason::length);
}

void Session::settle() {
  // Starting may shed speculation, and then a step of the target that waited for it may be
  // committed.
  for (std::int32_t limit = -1; limit != window_limit_ && phase_ != Phase::done;) {
    limit = window_limit_;
    starved_ = false;
    while (phase_ == Phase::reasoning && apply_one()) {
    }
    if (phase_ != Phase::done) start_all();
  }
}

// Verdicts first, in order; then the target's own step.
bool Session::apply_one() {
  if (!correcting_ && !window_.empty() && window_.front().state == Candidate::State::judged) {
    if (window_.front().accept)
      accept_head();
    else
      reject_head();
    return true;
  }
  if (own_ended_ && own_may_commit()) {
    commit_own();
    return true;
  }
  return false;
}

bool Session::own_may_commit() {
  if (correcting_) return true;
  if (options_.race == Race::first)
    return window_.empty() || window_.front().state != Candidate::State::judging;
  return window_.empty() && !draft_work_ && !may_still_draft();
}

void Session::accept_head() {
  Candidate head = std::move(window_.front());
  window_.pop_front();
  ++metrics_.accepted;
  // The target's own step for this place is not needed any more.
  cancel_work(own_work_);
  if (own_ended_) {
    metrics_.wasted_target_tokens += static_cast<std::int64_t>(last_own_.size());
    own_ended_ = false;
    own_kv_ = KvSequence();
  }
  target_.kv = std::move(head.target_kv);
  target_.next_token = head.next_token;
  draft_.kv = std::move(head.draft_kv);
  CommittedStep step;
  step.author = Author::draft;
  step.tokens = std::move(head.tokens);
  step.end = head.end;
  step.rho = head.rho;
  step.begin = head.begin, step.finish = head.finish;
  commit(std::move(step), /*judged=*/true, std::move(head.draft_tokens));
}

void Session::reject_head() {
  ++metrics_.rejected;
  correcting_ = true;
  Candidate head = std::move(window_.front());
  drop_speculation();
  // Where the target is not writing its step yet, it goes on from what it agrees with.
  if (own_work_ || own_ended_ || head.own.empty()) return;
  if (!draft_tokens_) {  // the draft has read all of it but the last token
    const auto beyond = static_cast<std::int32_t>(head.tokens.size() - head.own.size());
    guess_kv_ = std::move(head.draft_kv);
    guess_kv_.truncate(guess_kv_.length() - beyond);
  }
  begun_ = std::move(head.own);
  begun_kv_ = std::move(head.target_kv);
}

// The target has written its own step. Whether the draft foresaw it: then it has read it, and what
// it drafted after it stays.
bool Session::guess_was_right() {
  if (!correcting_ || window_.empty()) return false;
  Candidate guess = std::move(window_.front());
  window_.pop_front();
  const auto kept =
      std::mismatch(guess.tokens.begin(), guess.tokens.end(), last_own_.begin(), last_own_.end());
  metrics_.wasted_draft_tokens += guess.tokens.end() - kept.first;
  if (kept.first != guess.tokens.end() || kept.second != last_own_.end()) return false;
  if (own_end_ != guess.end || own_end_ != StepEnd::boundary) return false;
  draft_.kv = std::move(guess.draft_kv);
  return true;
}

void Session::commit_own() {
  const bool judged = correcting_;
  if (!guess_was_right()) drop_speculation();
  correcting_ = false;
  own_ended_ = false;
  ++metrics_.target_steps;
  target_.kv = std::move(own_kv_);
  target_.next_token = -1;
  CommittedStep step;
  step.author = Author::target;
  step.tokens = std::move(last_own_);
  step.end = own_end_;
  step.begin = own_begin_, step.finish = own_finish_;
  commit(std::move(step), judged);
}

void Session::commit(CommittedStep step, bool judged, std::vector<std::int32_t> draft_tokens) {
  const Mode mode = decision(steps_).mode;
  ++(mode == Mode::hedged       ? metrics_.hedged_steps
     : mode == Mode::sequential ? metrics_.sequential_steps
                                : metrics_.off_steps);
  const bool drafted = step.author == Author::draft;
  // Lengths are for the cap of the draft, so in its tokens: a step of the target then has none yet.
  const auto& read = draft_tokens_ ? draft_tokens : step.tokens;
  const StepFact fact{judged, drafted, static_cast<std::int32_t>(read.size()),
                      step.end != StepEnd::limit && (drafted || !draft_tokens_)};
  history_.push_back(history_.back());
  history_.back().add(fact);
  host_.learn(fact);
  std::erase_if(decisions_, [&](const auto& d) { return d.first <= steps_; });
  step.index = steps_++;
  if (step.end == StepEnd::eos) step.tokens.pop_back();
  if (step.end == StepEnd::limit) ++metrics_.truncated_steps;
  trace_.insert(trace_.end(), step.tokens.begin(), step.tokens.end());
  reasoning_tokens_ += static_cast<std::int32_t>(step.tokens.size());
  metrics_.reasoning_tokens = reasoning_tokens_;
  if (!draft_tokens_) {
    last_step_ = step.tokens;
  } else if (drafted) {
    draft_trace_.insert(draft_trace_.end(), draft_tokens.begin(), draft_tokens.end());
    last_step_ = std::move(draft_tokens);
  } else if (window_limit_ > 0) {
    untranslated_.push_back(step.tokens);
  }
  const StepEnd end = step.end;
  if (!step.tokens.empty()) host_.committed(id_, step);
  if (end == StepEnd::think_end) return end_reasoning(/*forced=*/false);
  if (end == StepEnd::eos || budget_left() <= 0) end_reasoning(/*forced=*/true);
}

void Session::end_reasoning(bool forced) {
  auto answer = std::exchange(draft_answer_, {});
  drop_speculation();
  if (!forced) draft_answer_ = std::move(answer);
  cancel_work(own_work_);
  release_draft();
  correcting_ = false;
  phase_ = Phase::answer;
  if (forced) commit_forced_end();
  if (spec_->max_tokens == 0) finish(FinishReason::length);
}

// The budget is used up, or the target wrote EOS (which nobody read and the trace does not keep).
void Session::commit_forced_end() {
  forced_ = true;
  metrics_.budget_hit = budget_left() <= 0;
  target_.next_token = -1;
  CommittedStep step;
  step.index = steps_;
  step.author = Author::forced;
  step.tokens = vocabulary_.forced_end;
  step.end = StepEnd::think_end;
  step.begin = step.finish = clock_;
  trace_.insert(trace_.end(), step.tokens.begin(), step.tokens.end());
  if (!step.tokens.empty()) host_.committed(id_, step);
}

// Nothing is drafted any more.
void Session::release_draft() {
  cancel_work(draft_prefill_);
  cancel_work(translation_);
  untranslated_.clear();
  draft_.kv = KvSequence();
}

// Rollback: nothing that was built on the window survives; results still on their way are dropped.
void Session::drop_speculation() {
  ++epoch_;
  cancel_work(verify_work_);
  if (!behind()) cancel_work(translation_);  // else it is of a committed step
  cut_window(0);
  end_drafted_ = false;
  std::erase_if(decisions_, [&](const auto& d) { return d.first > steps_; });
}

// Keeps the first `steps` of the window; nothing is being drafted after them.
void Session::cut_window(std::size_t steps) {
  cancel_work(draft_work_);
  cancel_work(draft_answer_work_);
  cancel_work(guess_work_);
  guess_kv_ = KvSequence();
  metrics_.wasted_draft_tokens += static_cast<std::int64_t>(draft_answer_.size());
  draft_answer_.clear();
  draft_answered_ = false;
  for (; window_.size() > steps; window_.pop_back()) {
    const Candidate& last = window_.back();
    const auto given = last.state == Candidate::State::guessed ? last.own.size() : 0;
    metrics_.wasted_draft_tokens +=
        static_cast<std::int64_t>(tokens_of(last, Role::draft).size() - given);
  }
}

void Session::cancel_work(std::optional<std::uint64_t>& id) {
  if (!id) return;
  for (auto& [key, held] : in_flight_)
    if (key == *id) {
      held.current = false;
      held.work->cancel.store(true, std::memory_order_relaxed);
    }
  id.reset();
}

bool Session::shed() {
  if (window_limit_ == 0) return false;
  window_limit_ = window_limit_ > 2 ? 2 : 0;
  metrics_.degraded = true;
  const bool had = !window_.empty() || draft_work_ || verify_work_;
  drop_speculation();
  if (window_limit_ == 0) release_draft();
  return had;
}

void Session::cancel() {
  if (phase_ != Phase::done) finish(FinishReason::cancelled);
}

void Session::finish(FinishReason reason, const std::string& error) {
  phase_ = Phase::done;
  ++epoch_;
  for (auto& [key, held] : in_flight_) {
    held.current = false;
    held.work->cancel.store(true, std::memory_order_relaxed);
  }
  draft_work_.reset(), verify_work_.reset(), own_work_.reset();
  target_prefill_.reset(), draft_prefill_.reset();
  translation_.reset(), draft_answer_work_.reset(), guess_work_.reset();
  untranslated_.clear();
  cut_window(0);
  if (own_ended_) metrics_.wasted_target_tokens += static_cast<std::int64_t>(last_own_.size());
  own_ended_ = false;
  own_kv_ = KvSequence();
  begun_.clear(), begun_kv_ = KvSequence();
  target_.kv = KvSequence();
  draft_.kv = KvSequence();
  metrics_.window = window_limit_;
  host_.finished(id_, reason, error);
}

}  // namespace dream_r
