#include "machine.h"

#include <algorithm>

namespace dream_r::test {

std::string describe(const Work& w) {
  static const char* const kKinds[] = {"prefill", "decode", "verify", "translate"};
  std::ostringstream s;
  s << w.id << ": request " << w.request << ' ' << (w.role == Role::draft ? "draft " : "target ")
    << kKinds[static_cast<int>(w.kind)]
    << (w.answer     ? " answer"
        : w.rewrites ? " again"
                     : "")
    << " step " << w.step << " cached " << w.cached << " feed " << w.feed.size() << " head "
    << w.head.size() << " limit " << w.limit;
  return s.str();
}

namespace {

// Why this work must not run now; nullptr when it may.
const char* may_start(const Reference& r, const Work& w) {
  for (const auto& [_, other] : r.live)
    if (other->role == w.role && other->kind == w.kind) return "it runs already";
  if (w.kind == WorkKind::translate && !r.other) return "one tokenizer";
  if (w.rewrites && w.role == Role::draft) {  // it goes on from what the target has begun
    if (!r.correcting || !r.window.empty() || r.own_ended || w.step != r.k || w.head.empty())
      return "a guess of no step";
    if (r.options.method != Method::fpsr || r.other || r.window_limit == 0) return "no guess";
    return r.options.proposals > 0 && w.limit >= size(w.head) && w.limit <= r.left() &&
                   w.limit <=
                       std::min(r.options.max_step_tokens, size(w.head) + r.options.proposals)
               ? nullptr
               : "limit of the guess";
  }
  if (w.kind == WorkKind::prefill)
    return r.phase == Reference::Phase::done ? "request is done" : nullptr;
  if (w.answer && w.role == Role::draft) {  // while the verdict on its last step is out
    if (r.phase != Reference::Phase::reasoning || r.options.method != Method::fpsr || r.other)
      return "no answer of the draft is wanted";
    if (r.correcting || r.window.empty() || r.window.back().end != StepEnd::think_end)
      return "the draft's reasoning has not ended";
    return w.limit >= 1 && w.limit <= std::min(r.options.proposals, r.spec->max_tokens)
               ? nullptr
               : "limit of the draft's answer";
  }
  if (w.answer) {
    if (r.phase != Reference::Phase::answer) return "no answer in this phase";
    return w.limit >= 1 && w.limit <= r.spec->max_tokens - size(r.answer) ? nullptr
                                                                          : "answer limit";
  }
  if (w.kind == WorkKind::translate && w.role == Role::target)
    return !r.behind.empty() && w.feed == r.behind[0] ? nullptr : "translates another step";
  const bool early = r.phase == Reference::Phase::prefill && w.kind == WorkKind::decode &&
                     w.role == Role::draft && r.options.method == Method::fpsr;
  if (!early && (r.phase != Reference::Phase::reasoning || w.step < r.k))
    return "a step that nobody needs";
  if (w.kind == WorkKind::translate) {
    const auto& c = r.window.at(w.step - r.k);
    return c.tokens.empty() && !c.judged && w.feed == c.read ? nullptr : "translates another draft";
  }
  if (w.kind == WorkKind::verify) {
    std::size_t i = w.step - r.k;
    if (r.correcting || w.judged.empty()) return "nothing to verify";
    if (i > 0 && (i > r.window.size() || !r.window[i - 1].judged)) return "verify out of order";
    for (const auto& j : w.judged)
      if (i >= r.window.size() || r.window[i].judged || j.tokens.empty() ||
          r.window[i++].tokens != j.tokens)
        return "verify of a step that does not wait";
    return nullptr;
  }
  if (w.limit < 1 || w.limit > r.options.max_step_tokens) return "step limit";
  const bool reasoner = r.options.method == Method::specreason;
  const bool in_turn =
      reasoner || (r.options.method == Method::fpsr && r.options.mode == ModeChoice::sequential);
  const bool shed = r.window_limit < (reasoner ? 1 : r.options.window);
  const bool drafts = !r.behind.empty() || r.room() > 0;
  if (w.role == Role::target && in_turn && !shed && !r.correcting && drafts)
    return "an own step without a rejection";
  for (const auto& [_, other] : r.live)
    if (other->rewrites && other->role == Role::draft && w.role == Role::target)
      return "before what the draft guesses is known";
  if (w.role == Role::target)
    return w.step == r.k && !r.own_ended && w.limit <= r.left() ? nullptr : "own step";
  if (r.correcting && r.window.empty()) return "draft: after a step that nobody knows";
  if (w.step != r.k + static_cast<int>(r.window.size())) return "draft: wrong step";
  if (static_cast<int>(r.window.size()) >= r.window_limit) return "draft: window is full";
  if (!r.window.empty() && (r.window.back().judged || r.window.back().end == StepEnd::think_end))
    return "draft: after the end";
  if (!r.window.empty() && r.window.back().guess && r.window.back().end != StepEnd::boundary)
    return "draft: after half a guess";
  if (!r.behind.empty()) return "draft: before it can read the trace";
  return w.limit <= r.room() ? nullptr : "draft: beyond the budget, or its positions";
}

}  // namespace

Machine::Machine(const Scenario& s)
    : manager(
          s.options, make_vocabulary(), s.target_blocks, s.draft_blocks,
          s.tongue == Tongue::same ? std::nullopt : std::optional(draft_tokens(s.draft_positions))),
      dice{s.seed},
      scenario_(s),
      vocabulary_(make_vocabulary()),
      draft_tokens_(draft_tokens(s.draft_positions)),
      policy_(make_policy(s.options)),
      target_store_(manager.pool(Role::target)),
      draft_store_(manager.pool(Role::draft)),
      clients_(s.specs.size()) {
  manager.set_speeds(s.speeds);
  for (std::size_t i = 0; i < clients_.size(); ++i) {
    Client& c = clients_[i];
    c.ref.spec = s.specs[i];
    c.ref.options = s.options;
    c.ref.vocabulary = &vocabulary_;
    c.ref.other = other() ? &draft_tokens_ : nullptr;
    const bool draft = s.options.method != Method::ar && s.draft_blocks > 0;
    c.full_window = draft && !c.ref.spec->draft.ids.empty() ? policy_->window() : 0;
    c.ref.window_limit = c.full_window;
    c.ref.drafted = [this, &c] { return drafted(c); };
  }
}

// race verdict: from the commits before the window alone, and from no clock.
bool Machine::drafted(const Client& c) const {
  Estimates estimates;
  for (std::int32_t i = 0; i < c.ref.k - policy_->window(); ++i) estimates.add(c.ref.facts[i]);
  return policy_->decide(estimates.steps, estimates, {0.2, 0.2, 0.5, 0.5}).mode != Mode::off;
}

void Machine::submit(std::size_t request) {
  if (log) log("submit " + std::to_string(request + 1));
  clients_[request].submitted = true;
  Actions actions;
  manager.submit(request + 1, scenario_.specs[request], actions);
  apply(actions);
}

void Machine::cancel(std::size_t request) {
  if (log) log("cancel " + std::to_string(request + 1));
  Client& c = clients_[request];
  if (c.ref.phase != Reference::Phase::done) {
    c.asked_cancel = true;
    c.ref.finish(FinishReason::cancelled);
  }
  Actions actions;
  manager.cancel(request + 1, actions);
  apply(actions);
}

void Machine::complete(std::size_t index) {
  Job job = std::move(jobs_[index]);
  jobs_.erase(jobs_.begin() + static_cast<std::ptrdiff_t>(index));
  Work& w = *job.work;
  run(job);
  store(w).finish(w);
  if (log) log("done " + describe(w) + (w.cancelled ? " (cancelled)" : ""));
  client(w).ref.returned(w);
  Actions actions;
  manager.done(job.work, actions);
  apply(actions);
}

// What a model makes of `prefix`: nothing of its prompt, so that two models may choose alike.
std::uint64_t Machine::context_of(const Work& w, const Tokens& prefix) const {
  const auto prompt = std::min(prefix.size(), w.spec->prompt(w.role).ids.size());
  return scenario_.language.read(
      mix(w.spec->seed, 1),
      Tokens(prefix.begin() + static_cast<std::ptrdiff_t>(prompt), prefix.end()));
}

// What the lane does with a work, in one go.
void Machine::run(Job& job) {
  Work& w = *job.work;
  const bool stale = w.cancel || job.stopped;
  if (w.kind == WorkKind::translate) return run_translation(job, stale);
  if (!job.copied) store(w).copy(w);
  if (!stale) store(w).check(w, job.prefix);
  w.written = w.cached;
  if (job.error) w.error = "lane error";
  if (job.stopped || (stale && dice.chance(0.5))) {  // stopped before its first forward
    w.cancelled = true;
    return;
  }
  const Language& lm = scenario_.language;
  const auto given =
      w.kind == WorkKind::decode && !job.prefix.empty() ? std::max(0, size(w.head) - 1) : 0;
  std::uint64_t context = context_of(w, Tokens(job.prefix.begin(), job.prefix.end() - given));
  Tokens text = w.feed;
  if (w.kind == WorkKind::decode) {
    store(w).put(w, w.proposed, w.cached + size(w.feed) + !w.head.empty());
    const bool own = w.role == Role::draft && other();
    w.end = lm.write(w, own ? draft_tokens_.vocabulary : vocabulary_, context, job.last,
                     own ? kShift : 0, w.tokens);
    for (auto i = w.tokens.begin() + size(w.head);
         w.agreed < size(w.proposed) && i < w.tokens.end() && *i == w.proposed[w.agreed]; ++i)
      ++w.agreed;
    if (stale && dice.chance(0.5)) {  // stopped at some token
      w.cancelled = true;
      w.tokens.resize(static_cast<std::size_t>(1 + dice.below(size(w.tokens))));
      w.end = StepEnd::limit;
    }
    if (!w.cancelled || size(w.tokens) > size(w.head))
      text.insert(text.end(), w.tokens.begin() + std::max(0, size(w.head) - 1), w.tokens.end() - 1);
  }
  bool rejected = false;
  for (Judgement& j : w.judged) {
    const std::uint64_t before = context;
    context = lm.read(context, j.tokens);
    lm.judge(j, context);
    // Not every lane knows it.
    if (!rejected && !accepts(scenario_.options, j) && dice.chance(0.8))
      j.own = lm.agreed(j.tokens, before);
    rejected = rejected || !accepts(scenario_.options, j);
    text.insert(text.end(), j.tokens.begin(), j.tokens.end());
  }
  if (w.kind == WorkKind::prefill && w.role == Role::target)
    w.next_token = lm.token(Role::target, context);
  store(w).put(w, text, w.cached);
  w.written += size(text);
}

void Machine::run_translation(const Job& job, bool stale) {
  Work& w = *job.work;
  if (job.error) w.error = "lane error";
  w.cancelled = job.stopped || (stale && dice.chance(0.5));
  if (!w.cancelled) w.tokens = translate(scenario_.tongue, scenario_.strange, w.role, w.feed);
}

void Machine::apply(Actions& actions) {
  observe_shedding(actions);
  for (const Output& out : actions.emit) take(out);
  for (const WorkPtr& work : actions.start) begin(work);
  for (const Job& job : jobs_) {
    const Work& w = *job.work;
    const bool counts = client(w).ref.live.count(w.id) > 0;
    DR_STATE(counts != w.cancel) << "work " << describe(w) << (counts ? " was" : " was not")
                                 << " cancelled";
  }
  for (const Client& c : clients_) check_client(c);
  manager.check();
  DR_STATE(manager.in_flight() == jobs_.size()) << manager.in_flight() << " works in flight";
}

// Lack of memory alone may lower a window, and the reference cannot know of it.
void Machine::observe_shedding(const Actions& actions) {
  for (std::size_t i = 0; i < clients_.size(); ++i) {
    Client& c = clients_[i];
    int limit = c.ref.window_limit;
    if (const Session* s = manager.session(i + 1)) limit = s->window_limit();
    for (const Output& out : actions.emit)  // it may be gone within this very event
      if (out.request == i + 1 && out.kind == Output::Kind::done && out.metrics.degraded)
        limit = out.metrics.window;
    if (limit == c.ref.window_limit) continue;
    if (log) log("shed " + std::to_string(i + 1) + " to " + std::to_string(limit));
    c.was_shed = true;
    c.ref.shed(limit);
  }
}

void Machine::take(const Output& out) {
  Client& c = clients_[out.request - 1];
  DR_STATE(!c.done) << "an output of request " << out.request << " after its end";
  if (out.kind == Output::Kind::step) {
    c.steps.push_back(out.step);
  } else if (out.kind == Output::Kind::answer) {
    c.answer.insert(c.answer.end(), out.tokens.begin(), out.tokens.end());
  } else {
    c.done = true;
    c.reason = out.reason;
    c.metrics = out.metrics;
  }
}

void Machine::begin(const WorkPtr& work) {
  const Work& w = *work;
  Client& c = client(w);
  if (log) log("start " + describe(w) + (w.cancel ? " (cancelled already)" : ""));
  Job job;
  job.work = work;
  store(w).start(w);
  if (!lazy_copy) store(w).copy(w), job.copied = true;
  if (!w.cancel) {
    const char* reason = may_start(c.ref, w);
    DR_STATE(!reason) << "must not start " << describe(w) << ": " << reason;
    c.ref.started(w);
    job.prefix = w.spec->prompt(w.role).ids;
    job.last = c.ref.last;
    if (w.role == Role::target)
      for (const auto& step : c.ref.trace) append(job.prefix, step.tokens);
    append(job.prefix, w.role == Role::target ? c.ref.answer : c.ref.read);
    if (w.role == Role::draft)
      for (const auto& step : c.ref.window) append(job.prefix, job.last = step.read);
    if (w.kind == WorkKind::prefill && w.role == Role::draft) job.prefix.pop_back();
    if (w.kind == WorkKind::decode && !w.head.empty())
      job.prefix.insert(job.prefix.end(), w.head.begin(), w.head.end() - 1);
    check_inputs(job, c);
    if (job.copied) store(w).check(w, job.prefix);
  }
  jobs_.push_back(std::move(job));
}

// The work is told exactly what it has to read, and which token of which step it writes.
void Machine::check_inputs(const Job& job, const Client& c) const {
  const Work& w = *job.work;
  DR_STATE(w.spec == c.ref.spec) << "another request's spec";
  if (w.kind == WorkKind::translate) return;
  DR_STATE(w.cached + size(w.feed) == size(job.prefix) &&
           std::equal(w.feed.begin(), w.feed.end(), job.prefix.begin() + w.cached))
      << "work " << describe(w) << " does not read its prefix of " << job.prefix.size();
  DR_STATE(!w.spec->has_penalties() || w.kind == WorkKind::prefill ||
           (w.context.size() <= job.prefix.size() &&
            std::equal(job.prefix.begin(), job.prefix.end() - std::max(0, size(w.head) - 1),
                       w.context.begin(), w.context.end())))
      << "work " << describe(w) << " penalises other tokens";
  DR_STATE(w.kind != WorkKind::prefill || !w.feed.empty()) << "an empty prefill";
  if (w.kind != WorkKind::decode) return;
  const Tokens before(job.prefix.begin(), job.prefix.end() - std::max(0, size(w.head) - 1));
  const Language& lm = scenario_.language;
  const std::uint64_t context = context_of(w, before);
  DR_STATE(w.head.empty() != w.feed.empty()) << "work " << describe(w) << " has nothing to read";
  // Acceptance costs the target no pass of its own: the verdict's pass chose the next token.
  const bool chosen = w.role == Role::target && c.ref.answer.empty() &&
                      (c.ref.trace.empty() || c.ref.trace.back().author == Author::draft);
  DR_STATE(chosen ? !w.head.empty() : w.head.empty() || c.ref.correcting)
      << "work " << describe(w) << " reads a token once more";
  DR_STATE(size(w.head) < 2 || c.ref.correcting) << "nothing says what the target writes";
  for (std::int32_t i = 0; i < size(w.head); ++i)
    DR_STATE(w.head[i] ==
             lm.token(Role::target, lm.read(context, {w.head.begin(), w.head.begin() + i})))
        << "another token " << i << " of its own step";
  DR_STATE(w.first_token == size(w.head) + (w.answer ? size(c.ref.answer) : 0)) << "random key";
  const auto ahead = w.role == Role::draft ? static_cast<std::int32_t>(c.ref.window.size()) : 0;
  DR_STATE(!w.answer || w.step == c.ref.k + ahead) << "random key of the answer";
  DR_STATE(w.proposed.empty() ||
           (w.role == Role::target && size(w.proposed) <= c.ref.options.proposals &&
            size(w.head) + size(w.proposed) < w.limit && (w.answer || c.ref.correcting)))
      << size(w.proposed) << " tokens proposed";
  const auto guess = c.ref.window.empty() ? Tokens() : c.ref.window[0].tokens;  // or shed since
  DR_STATE(w.answer || w.proposed.empty() || guess.empty() ||
           (c.ref.window[0].guess &&
            std::equal(w.proposed.begin(), w.proposed.end(), guess.begin() + size(w.head))))
      << "proposes what the draft did not guess";
  const bool forced = !c.ref.trace.empty() && c.ref.trace.back().author == Author::forced;
  DR_STATE(w.no_eos_first == (w.answer && forced && c.ref.answer.empty())) << "no_eos_first";
}

void Machine::check_client(const Client& c) const {
  const Reference& r = c.ref;
  DR_STATE(c.steps.size() == r.trace.size())
      << c.steps.size() << " steps committed, the method commits " << r.trace.size();
  if (!c.steps.empty()) {  // the others were compared before
    const CommittedStep &a = c.steps.back(), &b = r.trace.back();
    DR_STATE(a.index == b.index && a.author == b.author && a.tokens == b.tokens && a.end == b.end &&
             (a.rho == b.rho || (std::isnan(a.rho) && std::isnan(b.rho))))
        << "step " << a.index << " differs from the method's step " << b.index;
    DR_STATE(a.author != Author::draft || r.options.alpha < 1 || r.options.judge != Judge::cpn)
        << "a draft step at alpha >= 1";
  }
  DR_STATE(c.answer == r.answer) << "the answer has " << c.answer.size() << " tokens";
  DR_STATE(c.done == (r.phase == Reference::Phase::done)) << "done: " << c.done;
  DR_STATE(!c.done || c.reason == r.reason) << "finish reason " << static_cast<int>(c.reason);
  DR_STATE(r.reasoning <= r.spec->thinking_budget) << "over budget: " << r.reasoning;
}

bool Machine::all_done() const {
  return std::all_of(clients_.begin(), clients_.end(),
                     [](const Client& c) { return !c.submitted || c.done; });
}

void Machine::finish() {
  DR_STATE(jobs_.empty()) << jobs_.size() << " works still run";
  for (std::size_t i = 0; i < clients_.size(); ++i) {
    const Client& c = clients_[i];
    DR_STATE(!c.submitted || c.done) << "request " << i + 1 << " hangs";
    DR_STATE(c.metrics.degraded == c.was_shed) << "degraded: " << c.metrics.degraded;
  }
  DR_STATE(manager.live() == 0) << manager.live() << " requests are not forgotten";
  manager.drop_prefixes();
  for (Role role : {Role::draft, Role::target})
    DR_STATE(manager.pool(role).used() == 0) << manager.pool(role).used() << " blocks leaked";
}

void run_in_order(Machine& m) {
  while (m.outstanding() > 0) m.complete(0);
}

void run_in_random_order(Machine& m, Random& dice) {
  while (m.outstanding() > 0) m.complete(dice.below(static_cast<int>(m.outstanding())));
}

}  // namespace dream_r::test
