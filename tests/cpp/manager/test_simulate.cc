// The manager's time per step on a virtual clock against the closed forms of method, section 5.
#include <algorithm>
#include <cmath>
#include <string>

#include "core/check.h"
#include "doctest.h"
#include "runtime/simulate.h"

namespace dream_r {
namespace {

constexpr double kTimes[] = {0.05, 0.1, 0.4};
constexpr double kAcceptances[] = {0.2, 0.5, 0.7, 0.9, 0.95};

SimulateOptions options(Method method, Mode mode, double p, double d, double v) {
  SimulateOptions o;
  o.engine.method = method;
  o.engine.mode = mode == Mode::hedged ? ModeChoice::hedged : ModeChoice::sequential;
  o.acceptance = p;
  o.draft = d;
  o.verify = v;
  o.steps = 2000;
  o.step_tokens = 2;
  o.seed = 11;
  return o;
}

// The draw itself is random: the forms are evaluated at the acceptance that came out.
double measured_acceptance(const SimulateResult& r) {
  return static_cast<double>(r.accepted) / static_cast<double>(r.steps);
}

double fpsr_form(double p, double d, double v) {
  return p * ((1 - p) * (d + v) + p * std::max(d, v)) + (1 - p);
}

template <class F>
void on_grid(F f) {
  for (double p : kAcceptances)
    for (double d : kTimes)
      for (double v : kTimes) {
        CAPTURE(p);
        CAPTURE(d);
        CAPTURE(v);
        f(p, d, v);
      }
}

void close(const SimulateResult& r, double form) {
  CAPTURE(form);
  CAPTURE(r.per_step());
  CHECK(std::abs(r.per_step() / form - 1) < 0.02);
}

TEST_CASE("ar takes one own step a step") {
  auto o = options(Method::ar, Mode::hedged, 0.5, 0.1, 0.1);
  o.prefill = 3, o.answer = 2;
  const auto r = simulate(o);
  CHECK(r.per_step() == doctest::Approx(1));
  CHECK(r.speed_up() == doctest::Approx(1));
  CHECK(r.total == doctest::Approx(2005));
  CHECK(r.own_busy == doctest::Approx(2002));
}

TEST_CASE("specreason: d + v + (1 - p), whatever the devices") {
  on_grid([](double p, double d, double v) {
    for (auto devices : {Devices::separate, Devices::in_turn}) {
      auto o = options(Method::specreason, Mode::sequential, p, d, v);
      o.devices = devices;
      const auto r = simulate(o);
      close(r, d + v + (1 - measured_acceptance(r)));
      CHECK(r.ahead_drafted == 0);
    }
  });
}

// d + v <= 1 on the whole grid, so that a verdict is always there before the target's own step.
TEST_CASE("fpsr on lanes that do not slow one another") {
  on_grid([](double p, double d, double v) {
    for (auto race : {Race::first, Race::verdict}) {
      auto o = options(Method::fpsr, Mode::hedged, p, d, v);
      o.engine.race = race;
      o.engine.window = d >= v ? 4 : 2;  // see simulate.h: a wider window judges several at once
      o.steps = 4000;
      const auto r = simulate(o);
      close(r, fpsr_form(measured_acceptance(r), d, v));
      o.engine.window = 4;
      CHECK(simulate(o).per_step() <= r.per_step() * 1.001);
    }
  });
}

TEST_CASE("fpsr at d = v = 0.1, p = 0.9") {
  auto o = options(Method::fpsr, Mode::hedged, 0.9, 0.1, 0.1);
  o.steps = 20000;
  const auto r = simulate(o);
  MESSAGE("time per step " << r.per_step() << ", form " << fpsr_form(0.9, 0.1, 0.1));
  CHECK(std::abs(r.per_step() / fpsr_form(0.9, 0.1, 0.1) - 1) < 0.02);
}

// Window 1 pays d + v for every accepted step: p (d + v) + (1 - p). Window 4 gains p^2 min(d, v).
TEST_CASE("window 4 beats window 1 by p^2 min(d, v)") {
  on_grid([](double p, double d, double v) {
    auto o = options(Method::fpsr, Mode::hedged, p, d, v);
    o.steps = 4000;
    o.engine.window = 1;
    const auto one = simulate(o);
    const double q = measured_acceptance(one);
    close(one, q * (d + v) + (1 - q));
    CHECK(one.ahead_drafted == 0);
    o.engine.window = 4;
    const auto four = simulate(o);
    const double gain = one.per_step() - four.per_step(), least = q * q * std::min(d, v);
    CAPTURE(gain);
    CAPTURE(least);
    CHECK(gain > least - 0.02 * one.per_step());
    if (d < v) CHECK(four.ahead_drafted > 0);  // ended before the verdict on the step before it
  });
}

TEST_CASE("fpsr on one saturated device, lanes in turn: d + v + (1 - p)") {
  on_grid([](double p, double d, double v) {
    for (int window : {1, 4}) {
      auto o = options(Method::fpsr, Mode::sequential, p, d, v);
      o.devices = Devices::in_turn;
      o.engine.window = window;
      const auto r = simulate(o);
      close(r, d + v + (1 - measured_acceptance(r)));
      CHECK(r.overlap == 0);
    }
  });
}

// The form has no lookahead: window 1. It holds while the own step ends after the verdict.
TEST_CASE("fpsr on one device, the target beside the draft") {
  on_grid([](double p, double d, double v) {
    for (double rd : {0.5, 0.8})
      for (double rt : {0.3, 0.7}) {
        if (rt * (d + v) / rd > 0.95) continue;
        auto o = options(Method::fpsr, Mode::hedged, p, d, v);
        o.devices = Devices::beside;
        o.relative_draft = rd, o.relative_target = rt;
        o.engine.window = 1;
        const auto r = simulate(o);
        const double q = measured_acceptance(r);
        close(r, (d + v) / rd + (1 - q) * std::max(0.0, 1 - rt * (d + v) / rd));
      }
  });
}

TEST_CASE("the automatic mode is never far from the better of hedged and sequential") {
  for (auto devices : {Devices::separate, Devices::in_turn, Devices::beside})
    for (double p : {0.3, 0.9}) {
      auto o = options(Method::fpsr, Mode::hedged, p, 0.1, 0.1);
      o.devices = devices;
      o.relative_draft = 0.4, o.relative_target = 0.4;
      const double hedged = simulate(o).per_step();
      o.engine.mode = ModeChoice::sequential;
      const double sequential = simulate(o).per_step();
      o.engine.mode = ModeChoice::automatic;
      const double automatic = simulate(o).per_step();
      CAPTURE(p);
      CAPTURE(static_cast<int>(devices));
      CAPTURE(hedged);
      CAPTURE(sequential);
      CHECK(automatic < std::min(hedged, sequential) * 1.1);
    }
}

TEST_CASE("where the draft does not pay, the automatic mode leaves it") {
  auto o = options(Method::fpsr, Mode::hedged, 0.1, 0.6, 0.6);
  o.devices = Devices::in_turn;
  o.engine.mode = ModeChoice::automatic;
  const auto r = simulate(o);
  MESSAGE("time per step " << r.per_step() << " against 1 alone");
  CHECK(r.per_step() < 1.1);  // one probe in 16 steps costs d + v
}

TEST_CASE("race first never waits longer than the target's own step, verdict does") {
  auto o = options(Method::fpsr, Mode::hedged, 0.9, 2.0, 1.0);
  const auto first = simulate(o);
  CHECK(first.per_step() <= 1.001);
  o.engine.race = Race::verdict;
  CHECK(simulate(o).per_step() > 1.5);
}

TEST_CASE("times may be spread, and a seed replays them") {
  auto o = options(Method::fpsr, Mode::hedged, 0.8, 0.1, 0.1);
  o.spread = 0.5;
  o.steps = 20000;
  const auto a = simulate(o), b = simulate(o);
  CHECK(a.total == b.total);
  CHECK(a.alone / o.steps == doctest::Approx(1).epsilon(0.02));
  CHECK(a.per_step() > fpsr_form(measured_acceptance(a), 0.1, 0.1));  // max(d, v) grows
  CHECK(a.per_step() < 1);
  o.seed = 12;
  CHECK(simulate(o).total != a.total);
}

TEST_CASE("a work that stops late costs no committed time on lanes of its own") {
  auto o = options(Method::fpsr, Mode::hedged, 0.9, 0.1, 0.1);
  const auto at_once = simulate(o);
  o.cancel_delay = 0.05;
  const auto late = simulate(o);
  CHECK(late.accepted == at_once.accepted);
  CHECK(late.per_step() >= at_once.per_step());
  CHECK(late.per_step() < at_once.per_step() + 0.05);
}

TEST_CASE("options out of range are refused") {
  SimulateOptions o;
  o.acceptance = 1.5;
  CHECK_THROWS_AS(simulate(o), Error);
  o = {};
  o.own = 0;
  CHECK_THROWS_AS(simulate(o), Error);
  o = {};
  o.steps = 0;
  CHECK_THROWS_AS(simulate(o), Error);
}

}  // namespace
}  // namespace dream_r
