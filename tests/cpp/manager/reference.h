#pragma once
// The method (section 3) once more, as a plain interpreter: told which works started and came back,
// it says what is committed, which results still count and when the request is done. It knows no
// cache and no scheduling: what to start is the manager's choice, within may_start() (machine.cc).
#include <deque>
#include <functional>
#include <map>

#include "rules.h"
#include "runtime/policy.h"

namespace dream_r::test {

struct Reference {
  enum class Phase { prefill, reasoning, answer, done };
  using enum WorkKind;
  struct Candidate {
    Tokens tokens, read;  // the target's (none before its translation), the draft's
    StepEnd end = StepEnd::boundary;
    bool judging = false, judged = false, accept = false;
    bool guess = false;  // of the step that the target writes in place of a rejected one
    float rho = NAN;
  };
  std::shared_ptr<const RequestSpec> spec;
  EngineOptions options;
  const Vocabulary* vocabulary = nullptr;
  const DraftTokens* other = nullptr;  // the draft's, where its tokenizer is another one
  std::function<bool()> drafted;  // race verdict: does the method want a draft of the next step
  Phase phase = Phase::prefill;
  std::vector<CommittedStep> trace;
  std::vector<StepFact> facts;
  Tokens answer, own, last, read;  // as the draft reads it: the last step, the trace
  std::deque<Tokens> behind;       // steps of the target that `read` lacks
  FinishReason reason = FinishReason::stop;
  std::int32_t k = 0, reasoning = 0;
  std::int32_t window_limit = 0;  // W, which lack of memory may have lowered; 0: no draft
  bool correcting = false, own_ended = false;
  StepEnd own_end = StepEnd::boundary;
  std::deque<Candidate> window;
  std::map<std::uint64_t, const Work*> live;  // works whose results count

  std::int32_t left() const { return spec->thinking_budget - reasoning; }
  std::int32_t ahead(Tokens Candidate::* as) const {
    std::int32_t n = 0;
    for (const auto& c : window) n += size(c.*as);
    return n;
  }
  std::int32_t room() const {  // of the draft: the budget's, or that of its positions
    if (!other) return left() - ahead(&Candidate::tokens);
    return other->positions - size(spec->draft.ids) - size(read) - ahead(&Candidate::read);
  }

  void started(const Work& w) {
    live[w.id] = &w;
    for (std::size_t i = 0; i < w.judged.size(); ++i) window[w.step - k + i].judging = true;
  }
  void returned(const Work& w) {
    if (live.erase(w.id) == 0) return;  // of an older epoch: dropped
    if (!w.error.empty()) return finish(FinishReason::error);
    if (w.kind == prefill && w.role == Role::target) phase = Phase::reasoning;
    if (w.kind == translate && w.role == Role::target) {
      append(read, last = w.tokens), behind.pop_front();
    } else if (w.kind == translate) {
      translated(window.at(w.step - k), w.tokens);
    } else if (w.answer && w.role == Role::draft) {  // a proposal: changes nothing
    } else if (w.answer) {
      const bool eos = w.end == StepEnd::eos;
      answer.insert(answer.end(), w.tokens.begin(), w.tokens.end() - eos);
      if (eos || size(answer) >= spec->max_tokens)
        finish(eos ? FinishReason::stop : FinishReason::length);
    } else if (w.kind == verify) {
      for (auto i = w.step - k; const auto& j : w.judged) {
        Candidate& c = window.at(i++);
        c.judged = true, c.rho = j.rho, c.accept = accepts(options, j);
      }
    } else if (w.kind == decode && w.role == Role::target) {
      own = w.tokens, own_end = w.end, own_ended = true;
    } else if (w.kind == decode && w.rewrites) {
      window.push_back({.tokens = w.tokens, .read = w.tokens, .end = w.end, .guess = true});
    } else if (w.kind == decode) {
      Candidate c{other ? Tokens() : w.tokens, w.tokens, w.end};
      const auto most = other ? options.max_step_tokens : std::min(options.max_step_tokens, room());
      const auto& before = window.empty() ? last : window.back().read;
      c.judged = hopeless(w, other ? other->vocabulary : *vocabulary, before, most);
      window.push_back(std::move(c));
    }
    settle();
  }
  // Where the target could not have written it, neither it nor what the draft wrote after it stays.
  void translated(Candidate& c, const Tokens& t) {
    c.tokens = t;
    const bool fits = size(t) <= options.max_step_tokens && ahead(&Candidate::tokens) <= left();
    c.judged = !fits || !is_step(*vocabulary, t, c.end);
    while (c.judged && &window.back() != &c) window.pop_back();
    if (c.judged) drop(Role::draft, decode);
  }
  void settle() {
    while (phase == Phase::reasoning && left() > 0) {
      const bool verdict = !correcting && !window.empty() && window[0].judged;
      if (!verdict && !(own_ended && own_may_commit())) return;
      if (verdict && window[0].accept) {
        const Candidate c = window[0];
        window.pop_front(), drop(Role::target, decode);
        commit({k, Author::draft, c.tokens, c.end, c.rho}, true, c.read);
      } else {
        // A right guess is the target's step, and what follows it was drafted after that.
        const bool right = !verdict && !window.empty() && window[0].guess &&
                           window[0].tokens == own && window[0].end == StepEnd::boundary;
        right ? window.pop_front() : drop_speculation();
        if (!verdict) commit({k, Author::target, own, own_end}, correcting, {});
        correcting = verdict;
      }
    }
    if (phase == Phase::reasoning) end_reasoning(true);
  }
  void shed(int limit) {
    window_limit = limit;
    drop_speculation();
    if (limit == 0) behind.clear(), drop(Role::target, translate), drop(Role::draft, prefill);
    settle();
  }
  bool own_may_commit() const {
    if (correcting || window_limit == 0) return true;
    if (options.race == Race::first) return window.empty() || !window[0].judging;
    return window.empty() && !(drafted() && (!behind.empty() || room() > 0));
  }
  void drop(Role role, WorkKind kind) {
    std::erase_if(live, [&](auto& e) { return e.second->role == role && e.second->kind == kind; });
  }
  void drop_speculation() {
    window.clear(), drop(Role::target, verify);
    drop(Role::draft, decode), drop(Role::draft, translate);
  }
  void commit(CommittedStep s, bool judged, const Tokens& draft) {
    const bool accepted = s.author == Author::draft, known = accepted || !other;  // to the draft
    facts.push_back(
        {judged, accepted, size(other ? draft : s.tokens), known && s.end != StepEnd::limit});
    if (s.end == StepEnd::eos) s.tokens.pop_back();
    reasoning += size(s.tokens);
    if (known) append(read, last = accepted ? draft : s.tokens);
    if (!known && window_limit > 0) behind.push_back(s.tokens);
    ++k, correcting = own_ended = false;
    if (!s.tokens.empty()) trace.push_back(s);
    if (s.end == StepEnd::think_end || s.end == StepEnd::eos) end_reasoning(s.end == StepEnd::eos);
  }
  void end_reasoning(bool forced) {
    window.clear(), behind.clear(), live.clear();
    if (forced) trace.push_back({k, Author::forced, vocabulary->forced_end, StepEnd::think_end});
    phase = Phase::answer;
    if (spec->max_tokens == 0) finish(FinishReason::length);
  }
  void finish(FinishReason why) { phase = Phase::done, reason = why, live.clear(); }
};
}  // namespace dream_r::test
