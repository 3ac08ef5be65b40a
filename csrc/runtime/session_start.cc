// Starting work: what may run now, on which branch of the cache.
#include <algorithm>
#include <utility>

#include "runtime/session.h"

namespace dream_r {

void Session::start() {
  start_prefill(Role::target);
  if (window_limit_ > 0 && spec_->thinking_budget > 0) start_prefill(Role::draft);
}

void Session::start_all() {
  if (phase_ == Phase::prefill) {
    if (!target_prefill_) start_prefill(Role::target);  // it had found no memory
    // The smaller model has read its prompt long before.
    if (target_prefill_ && options_.method == Method::fpsr && can_draft()) start_draft();
    return;
  }
  if (phase_ == Phase::answer) {
    if (!own_work_) start_answer();
    return;
  }
  start_translate();
  start_guess();
  const Mode mode = decision(steps_).mode;
  const bool alone = correcting_ || mode != Mode::sequential;
  if (alone && !guess_work_ && !own_work_ && !own_ended_ && !start_own()) return;
  if (!verify_work_) start_verify();
  if (can_draft()) start_draft();
  start_draft_answer();
  // Sequential, and nothing speculative is under way for step k: the target writes it.
  const bool draft_reads = window_limit_ > 0 && (!draft_.ready || behind());
  const bool drafting = draft_work_ || guess_work_;
  if (!own_work_ && !own_ended_ && window_.empty() && !drafting && !draft_reads) start_own();
}

void Session::start_prefill(Role role) {
  const ModelPrompt& prompt = spec_->prompt(role);
  KvSequence kv = host_.match_prefix(role, prompt);
  auto work = make_work(role, WorkKind::prefill, 0);
  // The draft leaves the last token for its first step, as after every step: a step's last token is
  // read at the start of the next one. The target reads it to have its own first token at once.
  const auto end = prompt.ids.end() - (role == Role::draft ? 1 : 0);
  work->feed.assign(prompt.ids.begin() + kv.length(), end);
  if (role == Role::draft && work->feed.empty()) {  // the cache has it all
    draft_.kv = std::move(kv);
    draft_.ready = true;
    return;
  }
  const auto tokens = static_cast<std::int32_t>(work->feed.size());
  if (!reserve(role, kv, tokens, role == Role::target, work.get())) {
    if (role == Role::draft) window_limit_ = 0, metrics_.degraded = true;
    return;
  }
  if (role == Role::target) metrics_.prefix_tokens = work->cached;
  (role == Role::draft ? draft_prefill_ : target_prefill_) = work->id;
  fill_context(*work);
  launch(work, std::move(kv));
}

bool Session::start_own() {
  auto work = make_work(Role::target, WorkKind::decode, steps_);
  work->rewrites = correcting_;
  const bool begun = !begun_.empty();
  KvSequence kv = begun ? std::exchange(begun_kv_, {}) : target_.kv.fork();
  work->head = std::exchange(begun_, {});
  work->first_token = static_cast<std::int32_t>(work->head.size());
  if (!begun) feed_target(*work, kv);
  work->limit = std::min(options_.max_step_tokens, budget_left());
  if (begun && !window_.empty())  // a guess
    propose(*work, std::span(window_.front().tokens).subspan(work->head.size()));
  const auto room = static_cast<std::int32_t>(work->feed.size()) + work->limit;
  if (!reserve(Role::target, kv, room, /*essential=*/true, work.get())) return false;
  fill_context(*work);
  own_work_ = work->id;
  launch(work, std::move(kv));
  return true;
}

// What a decode of the target starts from: its first token, where the pass before chose it (under
// the key of the step that would follow), else what the target has not read.
void Session::feed_target(Work& work, KvSequence& kv) {
  if (target_.next_token >= 0) {
    work.head = {target_.next_token};
    ++work.first_token;
    return;
  }
  work.feed = unread(kv, Role::target);
  if (!work.feed.empty()) return;
  // All is read (EOS ended the step, and no forced tokens follow): the last token once more.
  kv.truncate(kv.length() - 1);
  work.feed = unread(kv, Role::target);
}

// All drafted steps that wait are judged in one pass, each after the one before; their scoring
// suffixes are branches with blocks of their own.
void Session::start_verify() {
  auto first = std::find_if(window_.begin(), window_.end(),
                            [](const Candidate& c) { return c.state != Candidate::State::judged; });
  if (correcting_ || first == window_.end()) return;
  if (first->state == Candidate::State::translating) return;
  auto work = make_work(Role::target, WorkKind::verify, first->index);
  const bool at_trunk = first == window_.begin();
  KvSequence kv = at_trunk ? target_.kv.fork() : std::prev(first)->target_kv.fork();
  if (at_trunk) work->feed = unread(kv, Role::target);
  const auto chosen = at_trunk ? target_.next_token : std::prev(first)->next_token;
  if (work->feed.empty()) work->head = {chosen};
  auto room = static_cast<std::int32_t>(work->feed.size());
  std::vector<KvSequence> scratch;
  const auto end = decision(steps_).one_a_pass ? std::next(first) : window_.end();
  const auto& suffix = options_.judge == Judge::cpn ? vocabulary_.suffix : vocabulary_.digit_suffix;
  for (auto c = first; c != end && c->state == Candidate::State::waiting; ++c) {
    Judgement j;
    j.tokens = c->tokens;
    room += static_cast<std::int32_t>(j.tokens.size());
    KvSequence own(host_.pool(Role::target));
    if (!reserve(Role::target, own, static_cast<std::int32_t>(suffix.size()), false, nullptr))
      return;
    own.table(j.scratch_table);
    scratch.push_back(std::move(own));
    work->judged.push_back(std::move(j));
  }
  if (!reserve(Role::target, kv, room, /*essential=*/false, work.get())) return;
  for (auto c = first; c != end && c->state == Candidate::State::waiting; ++c)
    c->state = Candidate::State::judging;
  fill_context(*work);
  verify_work_ = work->id;
  launch(work, std::move(kv), std::move(scratch));
}

bool Session::can_draft() {
  if (correcting_ && window_.empty()) return false;  // what step is next is not even guessed
  if (end_drafted_ || draft_work_ || !draft_.ready || behind()) return false;
  const auto most = decision(steps_).one_a_pass ? std::min(2, window_limit_) : window_limit_;
  if (static_cast<std::int32_t>(window_.size()) >= most) return false;
  if (speculative_tokens() >= budget_left() || draft_room() <= 0) return false;
  return decision(steps_ + static_cast<std::int32_t>(window_.size())).mode != Mode::off;
}

// Whether step k may yet come from the draft: it runs, or will as soon as it has read what comes
// before. That depends on no clock: while a translation is out it is not known, and is awaited.
bool Session::may_still_draft() {
  if (draft_work_) return true;
  if (correcting_ || end_drafted_ || window_limit_ == 0) return false;
  return decision(steps_).mode != Mode::off && (behind() || draft_room() > 0);
}

void Session::start_draft() {
  const auto index = steps_ + static_cast<std::int32_t>(window_.size());
  auto work = make_work(Role::draft, WorkKind::decode, index);
  KvSequence kv = window_.empty() ? draft_.kv.fork() : window_.back().draft_kv.fork();
  work->feed = unread(kv, Role::draft);
  work->limit = std::min({options_.max_step_tokens, draft_room(), decision(index).draft_limit});
  const auto room = static_cast<std::int32_t>(work->feed.size()) + work->limit;
  if (!reserve(Role::draft, kv, room, /*essential=*/false, work.get())) return;
  fill_context(*work);
  draft_work_ = work->id;
  launch(work, std::move(kv));
}

// The draft has ended its reasoning. While that is judged it begins the answer, for the target to
// read in one pass what it would write token by token. Memory is not asked twice for it.
void Session::start_draft_answer() {
  const auto limit = std::min(options_.script ? 0 : options_.proposals, spec_->max_tokens);
  if (limit == 0 || options_.method != Method::fpsr || draft_tokens_) return;
  if (draft_answered_ || window_.empty() || correcting_) return;
  Candidate& last = window_.back();
  if (last.end != StepEnd::think_end || last.skipped) return;
  auto work = make_work(Role::draft, WorkKind::decode, last.index + 1);
  work->answer = true;
  work->limit = limit;
  KvSequence kv = last.draft_kv.fork();
  work->feed = unread(kv, Role::draft);
  const auto plan = kv.reserve(static_cast<std::int32_t>(work->feed.size()) + work->limit);
  if (!plan) return;
  prepare(*work, kv, *plan);
  fill_context(*work);
  draft_answered_ = true;
  draft_answer_work_ = work->id;
  launch(work, std::move(kv));
}

// A rejected step: the draft goes on from what the target has begun in its place, for the target to
// read in one pass what it would write token by token. While that pass runs, the draft is already
// at the step after. Memory is not asked twice for it.
void Session::start_guess() {
  if (guess_kv_.length() == 0) return;
  KvSequence kv = std::exchange(guess_kv_, {});
  const auto ahead = options_.script ? 0 : options_.proposals;
  if (ahead == 0 || window_limit_ == 0 || options_.method != Method::fpsr) return;
  auto work = make_work(Role::draft, WorkKind::decode, steps_);
  work->rewrites = true;
  work->head = begun_;
  work->first_token = static_cast<std::int32_t>(begun_.size());
  work->limit = std::min({options_.max_step_tokens, budget_left(), work->first_token + ahead});
  const auto plan = kv.reserve(work->limit);
  if (!plan) return;
  prepare(*work, kv, *plan);
  fill_context(*work);
  guess_work_ = work->id;
  launch(work, std::move(kv));
}

// Gives the target tokens to read ahead of its own choice, as many as there is room for.
void Session::propose(Work& work, std::span<const std::int32_t> tokens) const {
  const auto head = static_cast<std::int32_t>(work.head.size());
  const auto most = std::clamp(work.limit - head - 1, 0, options_.script ? 0 : options_.proposals);
  const auto n = std::min(static_cast<std::size_t>(most), tokens.size());
  work.proposed.assign(tokens.begin(), tokens.begin() + static_cast<std::ptrdiff_t>(n));
}

void Session::start_answer() {
  auto work = make_work(Role::target, WorkKind::decode, steps_);
  work->answer = true;
  KvSequence kv = target_.kv.fork();
  work->first_token = answer_tokens_;
  work->no_eos_first = forced_ && answer_tokens_ == 0;
  feed_target(*work, kv);
  work->limit = std::min(options_.answer_burst, spec_->max_tokens - answer_tokens_);
  if (!draft_answer_.empty() && !work->head.empty() && draft_answer_[0] == work->head[0])
    propose(*work, std::span(draft_answer_).subspan(1));
  const auto room = static_cast<std::int32_t>(work->feed.size()) + work->limit;
  if (!reserve(Role::target, kv, room, /*essential=*/true, work.get())) return;
  fill_context(*work);
  own_work_ = work->id;
  launch(work, std::move(kv));
}

Decision Session::decision(std::int32_t step) {
  for (const auto& [index, d] : decisions_)
    if (index == step) return d;
  Decision d;
  if (options_.race == Race::verdict) {
    // From the request's own history alone, and from that part of it which is always known when
    // step `step` can first be drafted: the commits before the window.
    const auto known =
        std::min<std::size_t>(std::max(0, step - policy_.window()), history_.size() - 1);
    const Estimates& own = history_[known];
    // Measured speeds may choose when the target writes, but not whether the draft does.
    constexpr Speeds kGiven{0.2, 0.2, 0.5, 0.5};
    d = policy_.decide(own.steps, own, kGiven);
    const Decision measured = policy_.decide(own.steps, own, host_.speeds());
    if (d.mode != Mode::off && measured.mode != Mode::off) d.mode = measured.mode;
    d.one_a_pass = measured.one_a_pass;
  } else {
    const Estimates& all = host_.estimates();
    d = policy_.decide(all.steps + step - steps_, all, host_.speeds());
  }
  decisions_.emplace_back(step, d);
  return d;
}

WorkPtr Session::make_work(Role role, WorkKind kind, std::int32_t step) {
  auto work = std::make_shared<Work>();
  work->id = host_.next_work_id();
  work->request = id_;
  work->role = role;
  work->kind = kind;
  work->step = step;
  work->spec = spec_;
  return work;
}

// Room for `tokens` more in `kv`; the work learns its table and the copy to make first. When the
// pool has none: cached prefixes go, then this request's speculation; what is essential then waits
// (starved) for other work to return its blocks, what is speculative is given up.
bool Session::reserve(Role role, KvSequence& kv, std::int32_t tokens, bool essential, Work* work) {
  auto plan = kv.reserve(tokens);
  if (!plan && host_.make_room(role, tokens / KvStore::kBlock + 2)) plan = kv.reserve(tokens);
  if (!plan) {
    shed();
    if (essential) plan = kv.reserve(tokens);
  }
  if (!plan) {
    starved_ = starved_ || essential;
    return false;
  }
  if (work) prepare(*work, kv, *plan);
  return true;
}

void Session::prepare(Work& work, const KvSequence& kv, const BlockCopyPlan& copy) {
  work.cached = kv.length();
  kv.table(work.table);
  if (copy.src >= 0) work.copy = ops::BlockCopy{copy.src, copy.dst};
}

void Session::launch(WorkPtr work, KvSequence kv, std::vector<KvSequence> scratch) {
  // The block to copy from stays as it is until the lane has copied it: another lane may be the one
  // that would write or free it.
  if (work->copy) host_.pool(work->role).retain(work->copy->src);
  in_flight_.emplace_back(work->id, InFlight{work, std::move(kv), std::move(scratch), true});
  host_.start(std::move(work));
}

// Penalties look at the prompt, the committed trace and, for a draft, the steps before it.
void Session::fill_context(Work& work) {
  if (!spec_->has_penalties()) return;
  work.context = spec_->prompt(work.role).ids;
  const auto add = [&](const std::vector<std::int32_t>& part) {
    work.context.insert(work.context.end(), part.begin(), part.end());
  };
  add(trace_of(work.role));
  for (const Candidate& c : window_)
    if (c.index < work.step) add(tokens_of(c, work.role));
}

// Tokens of prompt, trace and (for the draft) window that `kv` has not read.
std::vector<std::int32_t> Session::unread(const KvSequence& kv, Role role) const {
  std::vector<std::int32_t> tokens;
  std::int32_t skip = kv.length();
  const auto take = [&](const std::vector<std::int32_t>& part) {
    const auto n = static_cast<std::int32_t>(part.size());
    if (skip < n) tokens.insert(tokens.end(), part.begin() + std::max(0, skip), part.end());
    skip -= n;
  };
  take(spec_->prompt(role).ids);
  take(trace_of(role));
  if (role == Role::draft)
    for (const Candidate& c : window_) take(tokens_of(c, role));
  return tokens;
}

std::int32_t Session::budget_left() const { return spec_->thinking_budget - reasoning_tokens_; }

std::int32_t Session::speculative_tokens() const {
  std::int32_t n = 0;
  for (const Candidate& c : window_) n += static_cast<std::int32_t>(c.tokens.size());
  return n;
}

std::int32_t Session::worst_case_blocks(const RequestSpec& spec, const Vocabulary& v, Role role) {
  const auto& prompt = spec.prompt(role);
  const auto tokens = static_cast<std::int64_t>(prompt.ids.size()) + spec.thinking_budget +
                      static_cast<std::int64_t>(v.forced_end.size()) + spec.max_tokens;
  return static_cast<std::int32_t>(tokens / KvStore::kBlock + 3);
}

}  // namespace dream_r
