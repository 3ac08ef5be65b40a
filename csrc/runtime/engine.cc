#include "runtime/engine.h"

#include <algorithm>
#include <thread>

#include "runtime/calibrate.h"

namespace dream_r {

namespace {

int cores() { return std::max(1u, std::thread::hardware_concurrency()); }

EngineOptions completed(EngineOptions o, bool has_draft) {
  constexpr std::int64_t kTypical = 4096;  // tokens of a request, where nobody said
  DR_CHECK(o.method == Method::ar || has_draft) << "this method needs a draft model";
  DR_CHECK(o.alpha >= 0 && o.alpha <= 1) << "alpha " << o.alpha << " is outside [0, 1]";
  DR_CHECK(o.window >= 1) << "window " << o.window << " is below 1";
  DR_CHECK(o.max_requests >= 1 && o.max_step_tokens >= 1 && o.prefill_chunk >= 1 &&
           o.answer_burst >= 1)
      << "max_requests, max_step_tokens, prefill_chunk and answer_burst must be at least 1";
  DR_CHECK(o.proposals >= 0) << "proposals must not be negative, not " << o.proposals;
  if (o.script) o.script->check(o.max_step_tokens);
  if (o.target_kv_tokens <= 0) o.target_kv_tokens = kTypical * o.max_requests;
  if (o.draft_kv_tokens <= 0) o.draft_kv_tokens = o.target_kv_tokens;
  if (o.target_threads <= 0) o.target_threads = cores();
  if (o.draft_threads <= 0) o.draft_threads = 1;
  return o;
}

std::shared_ptr<KvStore> make_kv(const Model& model, std::int64_t tokens) {
  const auto blocks = (tokens + KvStore::kBlock - 1) / KvStore::kBlock;
  DR_CHECK(blocks < (std::int64_t{1} << 31)) << tokens << " tokens of KV cache are too many";
  return std::make_shared<KvStore>(model.kv_shape(), static_cast<std::int32_t>(blocks),
                                   model.device());
}

std::optional<DraftTokens> draft_tokens(const std::optional<Translation>& t, const Model* draft) {
  if (!t || !draft) return std::nullopt;
  const TextConfig& text = draft->config().text;
  DraftTokens tokens{t->draft};
  if (text.max_positions > 0) tokens.positions = text.max_positions;
  return tokens;
}

}  // namespace

Engine::Engine(std::shared_ptr<const Model> target, std::shared_ptr<const Model> draft,
               Vocabulary vocabulary, const EngineOptions& options,
               std::optional<Translation> translation)
    : options_(completed(options, draft != nullptr)),
      target_(std::move(target)),
      draft_(options.method == Method::ar ? nullptr : std::move(draft)),
      vocabulary_(std::move(vocabulary)),
      translation_(std::move(translation)),
      clock_(cores()),
      target_kv_(make_kv(*target_, options_.target_kv_tokens)),
      draft_kv_(draft_ ? make_kv(*draft_, options_.draft_kv_tokens) : nullptr),
      manager_(options_, vocabulary_, target_kv_->blocks(), draft_ ? draft_kv_->blocks() : 0,
               draft_tokens(translation_, draft_.get())) {
  vocabulary_.check(target_->config().text.vocab);
  DR_CHECK(!options_.script || !translation_) << "scripted steps need one tokenizer";
  DR_CHECK(!vocabulary_.forced_end.empty()) << "the tokens that end the reasoning are missing";
  if (draft_) {
    const bool cpn = options_.judge == Judge::cpn;
    DR_CHECK(!(cpn ? vocabulary_.suffix : vocabulary_.digit_suffix).empty() &&
             !keyword_ids(vocabulary_, options_.judge).empty())
        << "the scoring question or its keywords are missing";
    if (translation_) translation_->draft.check(draft_->config().text.vocab);
    const auto& question = cpn ? vocabulary_.suffix : vocabulary_.digit_suffix;
    speeds_ = calibrate(*target_, *draft_, static_cast<int>(question.size()), options_);
    meter_ = SpeedMeter(speeds_);
    manager_.set_speeds(speeds_);
  }
  make_lanes();
  if (options_.inline_mode) return;
  for (Lane* l : {target_lane_.get(), draft_lane_.get(), verify_lane_.get()})
    if (l) l->start();
  if (text_lane_) text_lane_->start();
}

void Engine::make_lanes() {
  const auto back = [this](WorkPtr work) {
    Event e;
    e.kind = Event::Kind::done;
    e.work = std::move(work);
    post(std::move(e));
  };
  const auto lane = [&](LaneId id, auto model, auto kv, int threads) {
    const bool own = id == LaneId::draft && translation_;
    const Vocabulary& vocabulary = own ? translation_->draft : vocabulary_;
    return std::make_unique<Lane>(id, model, kv, vocabulary, options_, threads, clock_, back);
  };
  target_lane_ = lane(LaneId::target, target_, target_kv_, options_.target_threads);
  if (draft_) draft_lane_ = lane(LaneId::draft, draft_, draft_kv_, options_.draft_threads);
  if (draft_ && options_.verify == VerifyLane::separate)
    verify_lane_ = lane(LaneId::verify, target_, target_kv_, options_.target_threads);
  if (draft_ && translation_)
    text_lane_ = std::make_unique<TextLane>(translation_->translate, target_->config().text.vocab,
                                            draft_->config().text.vocab, clock_, back);
}

Engine::~Engine() { close(); }

void Engine::close() {
  std::vector<RequestId> unfinished;
  {
    std::lock_guard lock(mail_mutex_);
    if (closed_) return;
    closed_ = true;
    for (auto& [id, box] : mailboxes_)
      if (!box.finished) unfinished.push_back(id);
  }
  // Cancelled first: then what a stopping lane hands back belongs to nobody any more.
  for (RequestId id : unfinished) cancel(id);
  for (Lane* l : {target_lane_.get(), draft_lane_.get(), verify_lane_.get()})
    if (l) l->stop();
  if (text_lane_) text_lane_->stop();
  if (options_.inline_mode) pump();
  std::lock_guard lock(mail_mutex_);
  for (auto& [id, box] : mailboxes_) {  // whatever the manager had not even seen
    if (box.finished) continue;
    EngineEvent e = box.totals;
    e.output.kind = Output::Kind::done;
    e.output.request = id;
    e.output.reason = FinishReason::cancelled;
    box.finished = true;
    box.events.push_back(std::move(e));
  }
  mail_.notify_all();
  ended_.notify_all();
}

void Engine::check_request(const RequestSpec& spec) const {
  const auto check = [&](const ModelPrompt& prompt, const Model& model, const char* who) {
    const auto size = static_cast<std::int64_t>(prompt.ids.size());
    DR_CHECK(size >= 2) << "the " << who << " prompt has " << size << " tokens, at least 2 needed";
    DR_CHECK(prompt.positions.size() == prompt.ids.size()) << "positions missing in a prompt";
    const auto need = size + spec.thinking_budget + spec.max_tokens +
                      static_cast<std::int64_t>(vocabulary_.forced_end.size());
    const auto most = model.config().text.max_positions;
    DR_CHECK(most <= 0 || need <= most)
        << "prompt (" << size << " tokens) + thinking budget (" << spec.thinking_budget
        << ") + answer (" << spec.max_tokens << ") exceed the " << who << " model's " << most
        << " positions: shorten the prompt or lower the budgets";
    for (auto id : prompt.ids)
      DR_CHECK(0 <= id && id < model.config().text.vocab)
          << "token " << id << " is outside the " << who << " vocabulary";
  };
  DR_CHECK(spec.thinking_budget >= 0 && spec.max_tokens >= 0) << "budgets must not be negative";
  check(spec.target, *target_, "target");
  if (draft_ && !spec.draft.ids.empty()) check(spec.draft, *draft_, "draft");
  manager_.check_fits(spec);
}

RequestId Engine::submit(std::shared_ptr<const RequestSpec> spec) {
  check_request(*spec);
  const RequestId id = ++next_id_;
  {
    const double overlap = clock_.times().overlap;
    std::lock_guard lock(mail_mutex_);
    DR_STATE(!closed_) << "the engine is closed";
    Mailbox& box = mailboxes_[id];
    box.submitted = clock_.now();
    box.overlap_before = overlap;
  }
  Event e;
  e.kind = Event::Kind::submit;
  e.request = id;
  e.spec = std::move(spec);
  post(std::move(e));
  return id;
}

void Engine::cancel(RequestId id) {
  Event e;
  e.kind = Event::Kind::cancel;
  e.request = id;
  post(std::move(e));
}

std::optional<EngineEvent> Engine::next_event(RequestId id, double timeout) {
  std::unique_lock lock(mail_mutex_);
  const auto has_mail = [](const Mailbox& box) { return !box.events.empty(); };
  if (!await(lock, id, timeout, mail_, has_mail)) return std::nullopt;
  const auto box = mailboxes_.find(id);
  EngineEvent event = std::move(box->second.events.front());
  box->second.events.pop_front();
  if (event.output.kind == Output::Kind::done) mailboxes_.erase(box);
  return event;
}

bool Engine::wait(RequestId id, double timeout) {
  std::unique_lock lock(mail_mutex_);
  return await(lock, id, timeout, ended_, [](const Mailbox& box) { return box.finished; });
}

// True when `ready` holds of the request's mailbox, of whose change `changed` tells.
template <class F>
bool Engine::await(std::unique_lock<std::mutex>& lock, RequestId id, double timeout,
                   std::condition_variable& changed, F&& ready) {
  const auto until = std::chrono::steady_clock::now() + std::chrono::duration<double>(timeout);
  for (bool late = false;;) {
    const auto box = mailboxes_.find(id);  // anew: another caller may have read the last event
    DR_CHECK(box != mailboxes_.end()) << "no request " << id;
    if (ready(box->second)) return true;
    if (late) return false;
    if (options_.inline_mode) {
      lock.unlock();
      late = !pump() || std::chrono::steady_clock::now() > until;
      lock.lock();
    } else {
      late = changed.wait_until(lock, until) == std::cv_status::timeout;
    }
  }
}

// Whoever raises `unhandled_` from nothing is the manager until it is back at nothing: an event
// waits for no thread to wake, and those that come meanwhile are its business too.
void Engine::post(Event event) {
  events_.push(std::move(event));
  if (options_.inline_mode) return;  // pump() handles it
  if (unhandled_.fetch_add(1, std::memory_order_acq_rel) == 0) manage();
}

void Engine::manage() noexcept {
  do {
    std::optional<Event> event = events_.try_pop();
    handle(*event);
  } while (unhandled_.fetch_sub(1, std::memory_order_acq_rel) != 1);
}

void Engine::handle(Event& event) {
  Actions actions;
  switch (event.kind) {
    case Event::Kind::submit:
      manager_.submit(event.request, std::move(event.spec), actions);
      break;
    case Event::Kind::cancel:
      manager_.cancel(event.request, actions);
      break;
    case Event::Kind::done:
      account(*event.work);
      // With race "verdict" no clock decides what is committed, and inline no run differs.
      if (draft_ && options_.race == Race::first && !options_.inline_mode) {
        meter_.add(*event.work);
        manager_.set_speeds(meter_.speeds());
      }
      manager_.done(event.work, actions);
      break;
    case Event::Kind::stats: {
      const auto& t = manager_.pool(Role::target);
      const auto& d = manager_.pool(Role::draft);
      event.reply->push(
          {t.total(), t.used(), d.total(), d.used(), manager_.live(), manager_.in_flight()});
      break;
    }
    case Event::Kind::drop:
      manager_.drop_prefixes();
      break;
  }
  deliver(actions);
}

// What a work cost its request, before the manager decides what it is worth.
void Engine::account(const Work& work) {
  std::lock_guard lock(mail_mutex_);
  const auto it = mailboxes_.find(work.request);
  if (it == mailboxes_.end()) return;
  EngineEvent& totals = it->second.totals;
  if (work.kind == WorkKind::translate) {
    totals.translate_seconds += work.finish - work.begin;
    return;
  }
  const bool judging = work.kind == WorkKind::verify;
  const LaneId lane = work.role == Role::draft ? LaneId::draft
                      : judging                ? LaneId::verify
                                               : LaneId::target;
  totals.lane_seconds[static_cast<int>(lane)] += work.seconds;
  if (work.role == Role::target) totals.target_forwards += work.forwards;
  if (work.kind == WorkKind::prefill && work.role == Role::target)
    totals.prefill_seconds = work.finish - work.begin;
}

void Engine::deliver(Actions& actions) {
  // The draft's first: its claim on a core must stand before the target asks what is left.
  std::stable_partition(actions.start.begin(), actions.start.end(),
                        [](const WorkPtr& work) { return work->role == Role::draft; });
  for (WorkPtr& work : actions.start) push(std::move(work));
  if (actions.emit.empty()) return;
  const double now = clock_.now();
  const double overlap = clock_.times().overlap;
  bool ended = false;
  {
    std::lock_guard lock(mail_mutex_);
    for (Output& output : actions.emit) {
      const auto it = mailboxes_.find(output.request);
      if (it == mailboxes_.end() || it->second.finished) continue;
      Mailbox& box = it->second;
      EngineEvent& totals = box.totals;
      EngineEvent event;
      event.at = now - box.submitted;
      if (output.kind == Output::Kind::step) {
        if (output.step.author == Author::forced) output.step.begin = output.step.finish = now;
        output.step.begin -= box.submitted, output.step.finish -= box.submitted;
        if (totals.first_step_seconds == 0) totals.first_step_seconds = event.at;
        totals.answer_begin = event.at;  // after the last step
      }
      if (output.kind == Output::Kind::done) {
        totals.overlap_seconds = overlap - box.overlap_before;
        const double at = event.at;
        event = totals;
        event.at = at;
        box.finished = ended = true;
      }
      event.output = std::move(output);
      box.events.push_back(std::move(event));
    }
  }
  mail_.notify_all();
  if (ended) ended_.notify_all();
}

// Fixed order, so that a run repeats itself: events first, then one pass of each lane.
bool Engine::pump() {
  std::lock_guard lock(pump_mutex_);
  bool moved = false;
  while (auto event = events_.try_pop()) handle(*event), moved = true;
  for (Lane* l : {draft_lane_.get(), verify_lane_.get(), target_lane_.get()})
    if (l && l->step()) moved = true;
  if (text_lane_ && text_lane_->step()) moved = true;
  return moved;
}

void Engine::push(WorkPtr work) {
  const bool judging = work->kind == WorkKind::verify;
  if (work->kind == WorkKind::translate) return text_lane_->push(std::move(work));
  if (work->role == Role::draft) return draft_lane_->push(std::move(work));
  (judging && verify_lane_ ? verify_lane_ : target_lane_)->push(std::move(work));
}

Engine::PoolStats Engine::pool_stats() {
  Event e;
  e.kind = Event::Kind::stats;
  auto reply = e.reply = std::make_shared<Channel<PoolStats>>();
  post(std::move(e));
  if (options_.inline_mode) pump();
  return *reply->pop();
}

void Engine::drop_prefixes() {
  Event e;
  e.kind = Event::Kind::drop;
  post(std::move(e));
  if (options_.inline_mode) pump();
}

}  // namespace dream_r
