// Admission, and steps that are judged without a pass.
#include <algorithm>
#include <deque>

#include "doctest.h"
#include "machine.h"

namespace dream_r::test {
namespace {

std::int32_t worst(const Scenario& s, std::size_t i) {
  return Session::worst_case_blocks(*s.specs[i], make_vocabulary(), Role::target);
}
bool admitted(const Machine& m, RequestId id) { return m.manager.session(id) != nullptr; }

TEST_CASE("as many requests run as were asked for, first come first served") {
  Scenario s = plain_scenario(3);
  s.options.max_requests = 2;
  Machine m(s);
  m.submit(0), m.submit(1), m.submit(2);
  CHECK(admitted(m, 2));
  CHECK(!admitted(m, 3));
  CHECK(m.manager.live() == 3);
  run_in_order(m);
  m.finish();
}

TEST_CASE("a request waits until the worst case of all plain runs fits") {
  Scenario s = plain_scenario(3);
  auto small = std::make_shared<RequestSpec>(*s.specs[2]);
  small->thinking_budget = 1, small->max_tokens = 1;
  s.specs[2] = small;
  s.target_blocks = 2 * worst(s, 0) - 1;
  Machine m(s);
  m.submit(0), m.submit(1), m.submit(2);
  CHECK(admitted(m, 1));
  CHECK(!admitted(m, 2));
  CHECK(!admitted(m, 3));  // it would fit, and waits its turn
  m.cancel(1);
  CHECK(admitted(m, 3));  // at once, not at the next event
  run_in_order(m);
  m.finish();
  s.target_blocks = 2 * worst(s, 0);
  Machine two(s);
  two.submit(0), two.submit(1);
  CHECK(admitted(two, 2));
  run_in_order(two);
  two.finish();
}

TEST_CASE("what can never run is refused") {
  Scenario s = plain_scenario(1);
  s.target_blocks = worst(s, 0) - 1;
  Manager manager(s.options, make_vocabulary(), s.target_blocks, 10);
  Actions out;
  CHECK_THROWS_AS(manager.submit(1, s.specs[0], out), Error);
  CHECK(manager.live() == 0);
  auto spec = std::make_shared<RequestSpec>(*s.specs[0]);
  spec->thinking_budget = -1;
  CHECK_THROWS_AS(manager.check_fits(*spec), Error);
  spec->thinking_budget = 0;
  spec->target = {};
  CHECK_THROWS_AS(manager.check_fits(*spec), Error);
}

TEST_CASE("a request that finds no memory while nothing runs fails, and does not hang") {
  Scenario s = plain_scenario(2);
  Manager manager(s.options, make_vocabulary(), 100, 100);
  BlockPool& pool = manager.pool(Role::target);
  while (pool.free() > 0) pool.allocate();  // held by nobody who could give it back
  Actions out;
  manager.submit(1, s.specs[0], out);
  while (!out.start.empty()) {  // the draft's reading
    Actions next;
    for (const WorkPtr& work : out.start) {
      work->written = work->cached + size(work->feed);
      manager.done(work, next);
    }
    next.emit.insert(next.emit.begin(), out.emit.begin(), out.emit.end());
    out = std::move(next);
  }
  REQUIRE(out.emit.size() == 1);
  CHECK(out.emit[0].reason == FinishReason::error);
  CHECK(out.emit[0].error.find("KV cache") != std::string::npos);
  CHECK(manager.live() == 0);
}

TEST_CASE("two requests of one id are refused") {
  Scenario s = plain_scenario(1);
  Manager manager(s.options, make_vocabulary(), 100, 100);
  Actions out;
  manager.submit(1, s.specs[0], out);
  CHECK_THROWS_AS(manager.submit(1, s.specs[0], out), Error);
  CHECK(manager.live() == 1);
}

TEST_CASE("the same prompt is read once") {
  Scenario s = plain_scenario(2);
  s.specs[1] = s.specs[0];
  s.options.max_requests = 1;
  Machine m(s);
  m.submit(0), m.submit(1);
  run_in_order(m);
  m.finish();
  CHECK(m.clients()[0].metrics.prefix_tokens == 0);
  CHECK(m.clients()[1].metrics.prefix_tokens == 32);  // whole blocks of 37 tokens
}

// Answers works by hand: drafted steps of `draft_tokens` are written until `limit`, every verdict
// is yes. Returns the last draft's work and leaves what it started in `next`.
struct ByHand {
  explicit ByHand(const Scenario& s) : manager(s.options, make_vocabulary(), 200, 200) {
    auto spec = std::make_shared<RequestSpec>(*s.specs[0]);
    spec->thinking_budget = 2000;
    manager.submit(1, spec, actions);
  }
  // Completes works until one drafts: short steps are written, long ones returned for the test.
  WorkPtr next_draft() {
    while (!waiting.empty() || !actions.start.empty()) {
      for (const WorkPtr& work : actions.start) waiting.push_back(work);
      actions = {};
      const WorkPtr work = waiting.front();
      waiting.pop_front();
      if (work->role == Role::draft && work->kind == WorkKind::decode) return work;
      finish(work, {kWord, kWord, kStop}, StepEnd::boundary);
    }
    return nullptr;
  }
  void finish(const WorkPtr& work, Tokens tokens, StepEnd end) {
    if (work->kind == WorkKind::decode) work->tokens = std::move(tokens), work->end = end;
    for (Judgement& j : work->judged) j.rho = 1, j.next_token = kWord;
    work->next_token = kWord;
    work->cancelled = work->cancel;
    const auto judged = work->judged.empty() ? 0 : size(work->judged[0].tokens);
    const auto wrote = work->kind == WorkKind::decode ? size(work->tokens) - 1 : judged;
    work->written = work->cached + size(work->feed) + wrote;
    manager.done(work, actions);
  }
  bool judging() const {
    return std::any_of(actions.start.begin(), actions.start.end(),
                       [](const WorkPtr& w) { return w->kind == WorkKind::verify; });
  }
  Manager manager;
  Actions actions;
  std::deque<WorkPtr> waiting;
};

// method, section 3: a draft that never ends a step is capped, and a piece of a step is not judged.
TEST_CASE(
    "a drafted step cut at its cap is rejected without a pass; at max_step_tokens it is not") {
  for (const int longest : {256, 24}) {
    Scenario s = plain_scenario(1);
    s.options.mode = ModeChoice::sequential;
    s.options.window = 1;
    s.options.max_step_tokens = longest;
    ByHand run(s);
    WorkPtr draft = run.next_draft();
    for (std::int32_t i = 0; i < 6; ++i, draft = run.next_draft())
      run.finish(draft, {kWord, kWord + i, kStop}, StepEnd::boundary);
    CHECK(run.manager.session(1)->metrics().accepted >= 4);
    const bool capped = longest == 256;
    CHECK(draft->limit == (capped ? 32 : 24));
    run.finish(draft, Tokens(static_cast<std::size_t>(draft->limit), kWord), StepEnd::limit);
    CHECK(run.judging() == !capped);
    CHECK(run.manager.session(1)->metrics().skipped == capped);
    CHECK(run.manager.session(1)->metrics().rejected == capped);
  }
}

}  // namespace
}  // namespace dream_r::test
