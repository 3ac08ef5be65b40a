// Verdicts and lengths laid down in advance: what is real must not change what is scripted.
#include <array>

#include "doctest.h"
#include "runtime/tiny.h"

using namespace dream_r;
using namespace dream_r::tiny;

namespace {

constexpr Script kScript{.acceptance = 0.6, .step_min = 5, .step_max = 9, .seed = 7};

// The steps of a request as the script has them; the thinking budget cuts the last one.
std::vector<std::int32_t> expected_lengths(const Script& script, const RequestSpec& spec) {
  std::vector<std::int32_t> lengths;
  for (std::int32_t left = spec.thinking_budget, step = 0; left > 0; left -= lengths.back(), ++step)
    lengths.push_back(std::min(left, step_tokens(script, spec, step)));
  return lengths;
}

std::shared_ptr<const RequestSpec> spec_of(std::size_t request) {
  const int i = static_cast<int>(request);
  return tiny::request(i, 5 + 3 * i, 20 + 7 * i, 9);
}

void check_lengths(const Script& script, const std::vector<Outcome>& outcomes) {
  for (std::size_t i = 0; i < outcomes.size(); ++i) {
    CAPTURE(i);
    const auto spec = spec_of(i);
    std::vector<std::int32_t> lengths;
    for (const auto& [_, tokens] : outcomes[i].steps) lengths.push_back(tokens);
    CHECK(lengths == expected_lengths(script, *spec));
    CHECK(outcomes[i].metrics.reasoning_tokens == spec->thinking_budget);
    CHECK(outcomes[i].metrics.answer_tokens == spec->max_tokens);
    CHECK(outcomes[i].reason == FinishReason::length);
  }
}

// Every token is white space and a boundary, and half of them end the text: without a script no
// drafted step would be judged.
Vocabulary nothing_but_ends() {
  Vocabulary v = vocabulary();
  v.classes.assign(kVocab, token_class::white_space | token_class::blank_line);
  for (std::int32_t t = 0; t < 45; ++t) v.eos.push_back(t);
  return v;
}

EngineOptions scripted(Method method, const Script& script = kScript) {
  auto o = options(method, 0.7, false);
  o.script = script;
  return o;
}

// Every way of running drafts: the method, the mode, the lane of the verdicts.
template <class F>
void for_each_way(F f) {
  for (Method method : {Method::specreason, Method::fpsr})
    for (ModeChoice mode : {ModeChoice::hedged, ModeChoice::sequential})
      for (VerifyLane verify : {VerifyLane::fused, VerifyLane::separate}) {
        if (method == Method::specreason && mode == ModeChoice::hedged) continue;
        auto o = scripted(method);
        o.mode = mode, o.verify = verify;
        CAPTURE(static_cast<int>(method));
        CAPTURE(static_cast<int>(mode));
        CAPTURE(static_cast<int>(verify));
        f(o);
      }
}

}  // namespace

TEST_CASE("script: numbers of the seeds, the request and the step alone, spread as asked") {
  RequestSpec request;
  Script other = kScript;
  other.seed = 8;
  int accepted = 0, differ_seed = 0, differ_request = 0;
  std::array<int, 5> lengths{};
  for (std::int32_t step = 0; step < 10000; ++step) {
    request.seed = 3, request.index = 0;
    const bool yes = accepts(kScript, request, step);
    const auto tokens = step_tokens(kScript, request, step);
    accepted += yes;
    REQUIRE((tokens >= 5 && tokens <= 9));
    ++lengths[static_cast<std::size_t>(tokens - 5)];
    differ_seed += yes != accepts(other, request, step);
    request.index = 1;
    differ_request += tokens != step_tokens(kScript, request, step);
  }
  CHECK(accepted == doctest::Approx(6000).epsilon(0.03));
  for (int n : lengths) CHECK(n == doctest::Approx(2000).epsilon(0.1));
  CHECK(differ_seed == doctest::Approx(4800).epsilon(0.1));     // 2 * 0.6 * 0.4
  CHECK(differ_request == doctest::Approx(8000).epsilon(0.1));  // 4 of 5
}

TEST_CASE("script: a step is the draft's iff its verdict says so, however it is run") {
  const Pair pair;
  for_each_way([&](EngineOptions o) {
    o.race = Race::verdict;
    const auto outcomes = run(pair, o, 1.0f, {}, nothing_but_ends());
    for (std::size_t i = 0; i < outcomes.size(); ++i) {
      std::int64_t accepted = 0;
      for (std::size_t step = 0; step < outcomes[i].steps.size(); ++step) {
        const bool yes = accepts(kScript, *spec_of(i), static_cast<std::int32_t>(step));
        CHECK((outcomes[i].steps[step].first == Author::draft) == yes);
        accepted += yes;
      }
      CHECK(outcomes[i].metrics.accepted == accepted);
      CHECK(outcomes[i].metrics.skipped == 0);
    }
    check_lengths(kScript, outcomes);
  });
}

TEST_CASE("script: every method writes steps of the same lengths, whoever is first") {
  const Pair pair;
  check_lengths(kScript, run(pair, scripted(Method::ar), 1.0f));
  check_lengths(kScript, run(pair, scripted(Method::ar), 0.0f));
  for_each_way([&](const EngineOptions& o) {
    const auto outcomes = run(pair, o, 0.0f);  // greedy drafts repeat themselves
    check_lengths(kScript, outcomes);
    for (std::size_t i = 0; i < outcomes.size(); ++i)
      for (std::size_t step = 0; step < outcomes[i].steps.size(); ++step)
        if (outcomes[i].steps[step].first == Author::draft)
          CHECK(accepts(kScript, *spec_of(i), static_cast<std::int32_t>(step)));
  });
}

TEST_CASE("script: it overrules the verifier, and without it the verifier decides") {
  const Pair pair;
  auto o = options(Method::fpsr, 0.0, false);
  o.race = Race::verdict, o.mode = ModeChoice::hedged;
  const double alpha = median_rho(pair, o);
  for (const double acceptance : {0.0, 1.0}) {
    o.alpha = acceptance;  // by itself it would decide the other way
    o.script = kScript;
    o.script->acceptance = acceptance;
    for (const auto& r : run(pair, o, 1.0f))
      CHECK((acceptance == 1.0 ? r.target_steps : r.draft_steps) == 0);
  }
  o.alpha = alpha;
  o.script.reset();
  int drafted = 0, written = 0;
  for (const auto& r : run(pair, o, 1.0f)) {
    drafted += r.draft_steps, written += r.target_steps;
    for (float rho : r.rho) CHECK(rho > alpha);
  }
  CHECK(drafted > 0);
  CHECK(written > 0);
}

TEST_CASE("script: refused where it cannot be kept to") {
  const Pair pair;
  const auto refuse = [&](Script script, const char* why) {
    CHECK_THROWS_WITH_AS(
        Engine(pair.target, pair.draft, vocabulary(), scripted(Method::fpsr, script)),
        doctest::Contains(why), Error);
  };
  refuse({.acceptance = 1.5, .step_min = 5, .step_max = 9}, "acceptance 1.5");
  refuse({.step_min = 0, .step_max = 0}, "at least 1");
  refuse({.step_min = 9, .step_max = 5}, "steps of 9 to 5");
  refuse({.step_min = 4, .step_max = 9}, "twice the shortest");
  refuse({.step_min = 9, .step_max = 13}, "at most 12");  // max_step_tokens
}
