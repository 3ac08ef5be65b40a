#include "runtime/simulate.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <deque>

#include "runtime/manager.h"

namespace dream_r {

namespace {

constexpr std::int32_t kBoundary = 0, kThinkEnd = 1, kEos = 2, kWord = 8, kWords = 1000;

// A value of its key alone, in [0, 1).
double draw(std::uint64_t seed, std::uint64_t what, std::uint64_t step) {
  std::uint64_t h = seed * 0x9e3779b97f4a7c15u + what * 0x632be59bd9b4e019u + step;
  h = (h ^ (h >> 30)) * 0xbf58476d1ce4e5b9u;
  h = (h ^ (h >> 27)) * 0x94d049bb133111ebu;
  return static_cast<double>((h ^ (h >> 31)) >> 11) * 0x1p-53;
}

Vocabulary make_vocabulary() {
  Vocabulary v;
  v.classes.assign(kWord + kWords, 0);
  v.classes[kBoundary] = token_class::blank_line | token_class::ends_newline;
  v.eos = {kEos};
  v.think_end = kThinkEnd;
  v.forced_end = {kThinkEnd};
  v.suffix = {4, 5};
  v.digit_suffix = {4, 5};
  return v;
}

std::shared_ptr<const RequestSpec> make_spec(const SimulateOptions& o) {
  auto spec = std::make_shared<RequestSpec>();
  spec->target.ids = spec->draft.ids = {kWord, kWord};
  spec->thinking_budget = (o.steps + 1) * o.step_tokens;
  spec->max_tokens = 1;
  return spec;
}

// The answer takes the time that it is given, so nobody drafts it.
EngineOptions engine_options(const SimulateOptions& o) {
  EngineOptions engine = o.engine;
  engine.proposals = 0;
  return engine;
}

// One server: works in the order of their start, one at a time.
struct Server {
  struct Job {
    WorkPtr work;
    double left;  // time at speed 1
  };
  std::deque<Job> jobs;
};

class Simulation {
 public:
  explicit Simulation(const SimulateOptions& o)
      : options_(o),
        spec_(make_spec(o)),
        blocks_(4 * Session::worst_case_blocks(*spec_, make_vocabulary(), Role::target) + 256),
        manager_(engine_options(o), make_vocabulary(), blocks_, blocks_) {
    const bool turn = o.devices == Devices::in_turn, beside = o.devices == Devices::beside;
    manager_.set_speeds({o.draft / o.own, o.verify / o.own,
                         turn     ? 0.5
                         : beside ? o.relative_draft
                                  : 1.0,
                         turn     ? 0.5
                         : beside ? o.relative_target
                                  : 1.0,
                         o.verify > 0 ? o.verify_more / o.verify : 0.0});
  }

  SimulateResult run();

 private:
  Server& server(const Work& w);
  double speed(const Server& s) const;
  double mean_time(const Work& w) const;
  double time(const Work& w) const;
  double spread(std::uint64_t what, std::int32_t step) const;
  void start(Actions& actions);
  Server* next();
  void advance(double dt);
  void fill(Work& w) const;
  void write(Work& w) const;
  bool accepted(std::int32_t step) const {
    return draw(options_.seed, 100, static_cast<std::uint64_t>(step)) < options_.acceptance;
  }

  const SimulateOptions options_;
  const std::shared_ptr<const RequestSpec> spec_;
  const std::int32_t blocks_;
  Manager manager_;
  std::array<Server, 3> servers_;
  double now_ = 0;
  double overlap_ = 0;
  double reasoning_begin_ = 0;
  SimulateResult result_;
};

enum : std::uint64_t { kDraft, kOwn, kVerify, kRead };

std::uint64_t kind(const Work& w) {
  if (w.kind == WorkKind::verify) return kVerify;
  if (w.kind == WorkKind::prefill) return kRead;
  return w.role == Role::draft ? kDraft : kOwn;
}

Server& Simulation::server(const Work& w) {
  const bool target = w.role == Role::target, verify = w.kind == WorkKind::verify;
  if (options_.devices == Devices::in_turn) return servers_[0];
  if (options_.devices == Devices::beside) return servers_[target && !verify ? 1 : 0];
  return servers_[verify ? 2 : target ? 1 : 0];
}

double Simulation::speed(const Server& s) const {
  if (options_.devices != Devices::beside || servers_[0].jobs.empty() || servers_[1].jobs.empty())
    return 1;
  return &s == &servers_[0] ? options_.relative_draft : options_.relative_target;
}

double Simulation::mean_time(const Work& w) const {
  switch (kind(w)) {
    case kDraft:
      return options_.draft;
    case kVerify:
      return options_.verify + options_.verify_more * static_cast<double>(w.judged.size() - 1);
    case kOwn:
      return w.answer ? options_.answer : options_.own;
    default:
      return w.role == Role::target ? options_.prefill : options_.prefill * options_.draft;
  }
}

// Log-normal with mean 1.
double Simulation::spread(std::uint64_t what, std::int32_t step) const {
  if (options_.spread <= 0) return 1;
  const auto key = static_cast<std::uint64_t>(step);
  const double u = 1 - draw(options_.seed, 2 * what + 1, key);
  const double angle = 2 * M_PI * draw(options_.seed, 2 * what + 2, key);
  const double variance = std::log1p(options_.spread * options_.spread);
  const double normal = std::sqrt(-2 * std::log(u)) * std::cos(angle);
  return std::exp(std::sqrt(variance) * normal - variance / 2);
}

double Simulation::time(const Work& w) const { return mean_time(w) * spread(kind(w), w.step); }

void Simulation::start(Actions& actions) {
  for (const WorkPtr& work : actions.start) {
    work->begin = now_;
    server(*work).jobs.push_back({work, time(*work)});
  }
  for (const Output& out : actions.emit)
    if (out.kind == Output::Kind::step && out.step.end == StepEnd::think_end)
      result_.reasoning = now_ - reasoning_begin_;
    else if (out.kind == Output::Kind::done) {
      const RequestMetrics& m = out.metrics;
      result_.accepted = m.accepted, result_.rejected = m.rejected;
      result_.target_steps = m.target_steps, result_.steps = m.accepted + m.target_steps;
      result_.drafted = m.drafted, result_.verified = m.verified;
      result_.ahead_drafted = m.ahead_drafted, result_.ahead_verified = m.ahead_verified;
      result_.wasted_draft_tokens = m.wasted_draft_tokens;
      result_.wasted_target_tokens = m.wasted_target_tokens;
      result_.total = now_;
    }
  // A running work stops at its next token; one that waits never starts.
  for (Server& s : servers_)
    for (auto& job : s.jobs)
      if (job.work->cancel)
        job.left = std::min(job.left, &job == &s.jobs.front() ? options_.cancel_delay : 0.0);
}

// The server that finishes first; verdicts first where two finish at once (method, section 3).
Server* Simulation::next() {
  Server* best = nullptr;
  double when = 0;
  for (Server* s : {&servers_[2], &servers_[0], &servers_[1]}) {
    if (s->jobs.empty()) continue;
    const double left = s->jobs.front().left / speed(*s);
    if (!best || left < when - 1e-9) best = s, when = left;
  }
  if (best) advance(when);
  return best;
}

void Simulation::advance(double dt) {
  int running = 0;
  for (Server& s : servers_) running += !s.jobs.empty();
  if (running > 1) overlap_ += dt;
  std::array<double, 3> speeds;
  for (std::size_t i = 0; i < servers_.size(); ++i) speeds[i] = speed(servers_[i]);
  for (std::size_t i = 0; i < servers_.size(); ++i) {
    if (servers_[i].jobs.empty()) continue;
    Server::Job& job = servers_[i].jobs.front();
    job.left = std::max(0.0, job.left - dt * speeds[i]);
    switch (kind(*job.work)) {
      case kDraft:
        result_.draft_busy += dt;
        break;
      case kVerify:
        result_.verify_busy += dt;
        break;
      case kOwn:
        result_.own_busy += dt;
        break;
    }
  }
  now_ += dt;
}

void Simulation::write(Work& w) const {
  const bool last = w.step == options_.steps - 1;
  const auto size = std::min(options_.step_tokens, w.limit);
  w.tokens.assign(static_cast<std::size_t>(size), kWord + w.step % kWords);
  w.end = StepEnd::limit;
  if (w.answer) return;
  if (size == options_.step_tokens) {
    w.tokens.back() = last ? kThinkEnd : kBoundary;
    w.end = last ? StepEnd::think_end : StepEnd::boundary;
  }
}

void Simulation::fill(Work& w) const {
  w.finish = now_;
  w.cancelled = w.cancel;
  w.written = w.cached + static_cast<std::int32_t>(w.feed.size());
  if (w.cancelled) {
    w.written = w.cached;
  } else if (w.kind == WorkKind::decode) {
    write(w);
    w.written += static_cast<std::int32_t>(w.tokens.size()) - 1;
  } else if (w.kind == WorkKind::prefill) {
    w.next_token = kWord;
  }
  std::int32_t step = w.step;
  for (Judgement& j : w.judged) {
    const bool yes = accepted(step++);
    j.rho = options_.engine.judge == Judge::cpn ? (yes ? 1.0f : 0.0f) : (yes ? 9.0f : 0.0f);
    j.mass = 1;
    j.next_token = kWord + step % kWords;
    w.written += static_cast<std::int32_t>(j.tokens.size());
  }
}

SimulateResult Simulation::run() {
  Actions actions;
  manager_.submit(1, spec_, actions);
  start(actions);
  while (Server* s = next()) {
    const WorkPtr work = s->jobs.front().work;
    s->jobs.pop_front();
    fill(*work);
    if (work->kind == WorkKind::prefill && work->role == Role::target) reasoning_begin_ = now_;
    Actions more;
    manager_.done(work, more);
    start(more);
  }
  DR_STATE(manager_.live() == 0) << "the simulated request hangs at time " << now_;
  result_.overlap = now_ > 0 ? overlap_ / now_ : 0;
  for (std::int32_t i = 0; i < options_.steps; ++i) result_.alone += options_.own * spread(kOwn, i);
  return result_;
}

}  // namespace

SimulateResult simulate(const SimulateOptions& o) {
  DR_CHECK(o.acceptance >= 0 && o.acceptance <= 1) << "acceptance " << o.acceptance;
  DR_CHECK(o.draft >= 0 && o.verify >= 0 && o.own > 0 && o.verify_more >= 0 && o.prefill >= 0 &&
           o.answer >= 0 && o.spread >= 0 && o.cancel_delay >= 0)
      << "a negative time, or an own step that takes none";
  DR_CHECK(o.relative_draft > 0 && o.relative_target > 0) << "relative speeds must be above 0";
  DR_CHECK(o.steps > 0 && o.step_tokens >= 2 && o.step_tokens <= o.engine.max_step_tokens)
      << o.steps << " steps of " << o.step_tokens << " tokens";
  DR_CHECK(static_cast<std::int64_t>(o.steps) * o.step_tokens <= 10'000'000)
      << "more than ten million tokens";
  return Simulation(o).run();
}

}  // namespace dream_r
