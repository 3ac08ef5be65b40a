// One fault at every place of a scripted run: cancelled after event n, no memory at allocation n.
#include <array>
#include <cmath>

#include "doctest.h"
#include "machine.h"

namespace dream_r::test {
namespace {

template <class F>
void on_configurations(F f) {
  for (auto method : {Method::ar, Method::specreason, Method::fpsr})
    for (auto race : {Race::first, Race::verdict})
      for (auto mode : {ModeChoice::hedged, ModeChoice::sequential}) {
        if (method == Method::ar && mode != ModeChoice::hedged) continue;
        Scenario s = plain_scenario(2);
        s.tongue = mode == ModeChoice::hedged ? Tongue::longer : Tongue::same;
        s.options.method = method;
        s.options.race = race;
        s.options.mode = mode;
        s.options.answer_burst = 4;
        s.language.seed = 3;
        s.language.think_end = 0.01;
        f(s);
      }
}

// Works come back last started first on odd turns, so that events do not follow the start order.
int run_to_end(Machine& m, int events, int stop_after = -1) {
  while (m.outstanding() > 0 && events != stop_after)
    m.complete(++events % 2 ? m.outstanding() - 1 : 0);
  return events;
}

TEST_CASE("a request can be cancelled at every event, and leaves nothing behind") {
  on_configurations([](const Scenario& s) {
    int length = 1;
    for (int n = 0; n < length; ++n) {
      Machine m(s);
      m.submit(0), m.submit(1);
      const int at = run_to_end(m, 0, n);
      const bool was_done = m.clients()[0].done;
      m.cancel(0);
      CHECK(m.clients()[0].done);  // at once: the partial result is there
      if (!was_done) CHECK(m.clients()[0].reason == FinishReason::cancelled);
      run_to_end(m, at);
      m.finish();
      CHECK(m.clients()[1].reason != FinishReason::cancelled);
      if (n == 0) {
        Machine whole(s);
        whole.submit(0), whole.submit(1);
        length = run_to_end(whole, 0) + 1;
      }
    }
    CHECK(length > 10);
  });
}

TEST_CASE("a request that waits can be cancelled, and those behind it move up") {
  Scenario s = plain_scenario(3);
  s.options.max_requests = 1;
  Machine m(s);
  m.submit(0), m.submit(1), m.submit(2);
  m.cancel(1);
  CHECK(m.clients()[1].reason == FinishReason::cancelled);
  run_in_order(m);
  m.finish();
  CHECK(m.clients()[2].done);
}

TEST_CASE("an allocation may fail at every place: the request completes, speculation may not") {
  on_configurations([](const Scenario& s) {
    for (Role role : {Role::draft, Role::target}) {
      int degraded = 0;
      for (int n = 0; n < 150; ++n) {
        Machine m(s);
        m.fail_allocation(role, n);
        m.submit(0), m.submit(1);
        run_to_end(m, 0);
        m.finish();  // degraded iff a window was lowered
        for (const auto& c : m.clients()) {
          CHECK(c.reason != FinishReason::error);
          CHECK(c.reason != FinishReason::cancelled);
          degraded += c.metrics.degraded;
        }
      }
      CHECK((degraded > 0) == (s.options.method != Method::ar));
    }
  });
}

TEST_CASE("a plain run needs no more blocks than were promised for it") {
  Scenario s = plain_scenario(1);
  s.options.method = Method::ar;
  auto spec = std::make_shared<RequestSpec>(*s.specs[0]);
  spec->thinking_budget = 300, spec->max_tokens = 1;
  s.language.think_end = s.language.eos = 0;
  s.target_blocks = Session::worst_case_blocks(*spec, make_vocabulary(), Role::target);
  s.specs = {spec};
  Machine m(s);
  m.submit(0);
  run_in_order(m);
  m.finish();
  CHECK(m.clients()[0].reason == FinishReason::length);
  CHECK(m.clients()[0].metrics.reasoning_tokens == 300);
  CHECK(m.clients()[0].metrics.budget_hit);
}

TEST_CASE("lanes that stop end their requests as cancelled") {
  Scenario s = plain_scenario(1);
  Machine m(s);
  m.submit(0);
  m.stop_lanes();
  m.clients()[0].ref.finish(FinishReason::cancelled);
  run_in_order(m);
  m.finish();
}

// Whether a step that model `from` wrote is being translated.
bool translating(const Machine& m, Role from) {
  for (std::size_t i = 0; i < m.outstanding(); ++i)
    if (m.work(i).kind == WorkKind::translate && m.work(i).role == from) return true;
  return false;
}

TEST_CASE("a step that waits for its translation: cancelled, shed, or its translation fails") {
  enum Fault { cancel, shed, error };
  for (Role from : {Role::draft, Role::target})
    for (Fault fault : {cancel, shed, error}) {
      Scenario s = plain_scenario(1);
      s.tongue = Tongue::exact;
      s.options.mode = ModeChoice::sequential;
      s.language.accept = from == Role::draft ? 0.9 : 0.1;
      s.language.think_end = s.language.eos = 0;
      Machine m(s);
      m.submit(0);
      while (m.outstanding() > 0 && !translating(m, from)) m.complete(0);
      REQUIRE(translating(m, from));
      if (fault == cancel) m.cancel(0);
      if (fault == shed) m.fail_allocation(Role::draft, 0);
      for (std::size_t i = 0; fault == error && i < m.outstanding(); ++i)
        if (m.work(i).kind == WorkKind::translate) m.lane_error(i);
      run_in_order(m);
      m.finish();
      const auto& c = m.clients()[0];
      CHECK((c.reason == FinishReason::cancelled) == (fault == cancel));
      CHECK((c.reason == FinishReason::error) == (fault == error));
      CHECK(c.metrics.degraded == (fault == shed));
    }
}

TEST_CASE("two tokenizers: the target's steps say nothing of how long the draft's are") {
  Scenario s = plain_scenario(1);
  s.tongue = Tongue::exact;
  s.options.mode = ModeChoice::sequential;
  s.language = {1, 0.0, 0.1, 0, 0, 0, 0, 0};  // nothing is accepted, and nothing ends early
  Machine m(s);
  m.submit(0);
  while (m.outstanding() > 0) {
    const Work& w = m.work(0);
    const bool drafts = w.kind == WorkKind::decode && w.role == Role::draft;
    if (drafts) CHECK(w.limit == s.options.max_step_tokens);  // no cap but by accepted drafts
    m.complete(0);
  }
  m.finish();
  CHECK(m.clients()[0].metrics.target_steps > 6);
}

// ---- what is committed does not depend on time, where race is verdict

Tokens committed(const Machine::Client& c) {
  Tokens all;
  for (const auto& step : c.steps) {
    all.push_back(-1 - static_cast<std::int32_t>(step.author));
    all.insert(all.end(), step.tokens.begin(), step.tokens.end());
  }
  all.push_back(-9);
  all.insert(all.end(), c.answer.begin(), c.answer.end());
  return all;
}

std::vector<Tokens> outcome(const Scenario& s, Random* dice) {
  Machine m(s);
  m.lazy_copy = dice != nullptr;
  for (std::size_t i = 0; i < s.specs.size(); ++i) m.submit(i);
  dice ? run_in_random_order(m, *dice) : run_in_order(m);
  m.finish();
  std::vector<Tokens> all;
  for (const auto& c : m.clients()) all.push_back(committed(c));
  return all;
}

TEST_CASE("race verdict: the trace is a function of the seed alone") {
  for (std::uint64_t seed = 0; seed < 30; ++seed) {
    Scenario s = plain_scenario(3);
    s.options.race = Race::verdict;
    s.options.mode = ModeChoice::automatic;
    s.language.seed = seed;
    s.language.accept = seed % 3 ? 0.8 : 0.4;
    s.language.boundary = 0.3;
    s.tongue = std::array{Tongue::same, Tongue::exact, Tongue::longer, Tongue::shorter}[seed % 4];
    s.strange = 0.1;
    s.draft_positions = seed % 5 ? 100000 : 90;
    const auto in_order = outcome(s, nullptr);
    Random dice{seed};
    for (int i = 0; i < 10; ++i) {
      s.speeds = {dice.pick({0.1, 0.9}), 0.1, dice.pick({0.2, 1.0}), dice.pick({0.2, 1.0}),
                  dice.pick({0.0, 1.0})};
      CHECK(outcome(s, &dice) == in_order);
    }
  }
}

// Windows and modes change when a step is written, and the cap on drafted steps: so many tokens a
// step that the cap (16 at least) never cuts one.
TEST_CASE("race verdict: neither window nor mode changes the trace") {
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    Scenario s = plain_scenario(2);
    s.options.race = Race::verdict;
    s.options.max_step_tokens = 16;
    s.options.mode = ModeChoice::hedged;
    s.options.window = 1;
    s.language.seed = seed;
    s.tongue = seed % 2 ? Tongue::longer : Tongue::same;
    s.strange = 0.1;
    const auto narrow = outcome(s, nullptr);
    for (int window : {2, 3, 4, 6})
      for (auto mode : {ModeChoice::hedged, ModeChoice::sequential}) {
        s.options.window = window;
        s.options.mode = mode;
        Random dice{seed};
        CHECK(outcome(s, &dice) == narrow);
      }
  }
}

TEST_CASE("alpha 1: every method writes what the target alone writes") {
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    Scenario s = plain_scenario(2);
    s.language.seed = seed;
    s.tongue = seed % 2 ? Tongue::shorter : Tongue::same;
    s.options.method = Method::ar;
    const auto alone = outcome(s, nullptr);
    s.options.alpha = 1;
    for (auto method : {Method::specreason, Method::fpsr})
      for (auto race : {Race::first, Race::verdict}) {
        s.options.method = method;
        s.options.race = race;
        Random dice{seed};
        CHECK(outcome(s, &dice) == alone);
      }
  }
}

}  // namespace
}  // namespace dream_r::test
