// The real engine on a pair of two tokenizers: the draft's ids are the target's plus one.
#include <algorithm>
#include <atomic>
#include <optional>
#include <thread>
#include <utility>

#include "doctest.h"
#include "runtime/tiny.h"

using namespace dream_r;
using namespace dream_r::tiny;

namespace {

using Tokens = std::vector<std::int32_t>;

Tokens shifted(std::span<const std::int32_t> tokens, std::int32_t by) {
  Tokens out;
  for (std::int32_t t : tokens) out.push_back((t + by + kVocab) % kVocab);
  return out;
}

Tokens other(Role from, std::span<const std::int32_t> step) {
  return shifted(step, from == Role::draft ? -1 : 1);
}

Translation translation(Translator translate = &other) {
  const Vocabulary target = vocabulary();
  Vocabulary v;
  v.classes.push_back(target.classes.back());
  v.classes.insert(v.classes.end(), target.classes.begin(), target.classes.end() - 1);
  v.eos = shifted(target.eos, 1);
  v.think_end = target.think_end + 1;
  v.suppressed = shifted(target.suppressed, 1);
  return {v, std::move(translate)};
}

}  // namespace

TEST_CASE("two tokenizers, alpha 1: exactly what the target alone writes") {
  const Pair pair;
  for (float temperature : {0.0f, 1.0f}) {
    const auto ar = run(pair, options(Method::ar, 0.7, true), temperature, translation());
    for (bool inline_mode : {true, false})
      for (Race race : {Race::first, Race::verdict})
        for (ModeChoice mode : {ModeChoice::hedged, ModeChoice::sequential})
          for (Method method : {Method::fpsr, Method::specreason}) {
            auto o = options(method, 1.0, inline_mode);
            o.race = race, o.mode = mode;
            std::int64_t translated = 0;
            const auto got = run(pair, o, temperature, translation());
            for (std::size_t i = 0; i < ar.size(); ++i) {
              CHECK(got[i].tokens == ar[i].tokens);
              translated += got[i].metrics.translated;
            }
            if (inline_mode) CHECK(translated > 0);  // else the target may be done first
          }
  }
}

// 91, or 92 of the draft, as a whole </think> of a tokenizer that has no token for it.
void spell(Vocabulary& v) { v.think_spelling[std::exchange(v.think_end, -1)].fill(kThinkLength); }

TEST_CASE("two tokenizers, </think> spelled by either: the same as with a token of its own") {
  const Pair pair;
  auto o = options(Method::fpsr, 0, true);
  o.race = Race::verdict;
  o.alpha = median_rho(pair, o, translation());
  const auto expected = run(pair, o, 1.0f, translation());
  CHECK(std::any_of(expected.begin(), expected.end(),
                    [](const Outcome& r) { return !r.metrics.budget_hit && r.draft_steps > 0; }));
  for (int which : {1, 2, 3}) {
    Vocabulary target = vocabulary();
    Translation t = translation();
    if (which & 1) spell(target);
    if (which & 2) spell(t.draft);
    const auto got = run(pair, o, 1.0f, t, target);
    for (std::size_t i = 0; i < got.size(); ++i) CHECK(got[i].tokens == expected[i].tokens);
  }
}

TEST_CASE("two tokenizers, race verdict: the output is a function of the seed alone") {
  const Pair pair;
  auto o = options(Method::fpsr, 0, true);
  o.race = Race::verdict;
  o.alpha = median_rho(pair, o, translation());
  const auto expected = run(pair, o, 1.0f, translation());
  int drafted = 0, written = 0;
  for (const auto& r : expected) drafted += r.draft_steps, written += r.target_steps;
  CHECK(drafted > 0);
  CHECK(written > 0);
  const auto slow = translation([](Role from, std::span<const std::int32_t> step) {
    std::this_thread::sleep_for(std::chrono::microseconds(step.size() % 3 * 300));
    return other(from, step);
  });
  o.inline_mode = false;
  for (ModeChoice mode : {ModeChoice::hedged, ModeChoice::sequential})
    for (VerifyLane verify : {VerifyLane::fused, VerifyLane::separate})
      for (const Translation& t : {translation(), slow}) {
        o.mode = mode, o.verify = verify;
        const auto got = run(pair, o, 1.0f, t);
        for (std::size_t i = 0; i < got.size(); ++i) CHECK(got[i].tokens == expected[i].tokens);
      }
}

// One request at a time, and the translator fails all through the second. specreason drafts every
// step before the target may write it, so that some translation of a request always counts.
TEST_CASE("a translator that fails, or names no token, fails its request alone") {
  const Pair pair;
  for (Method method : {Method::fpsr, Method::specreason})
    for (bool inline_mode : {true, false})
      for (bool throws : {true, false}) {
        if (method == Method::fpsr && !inline_mode) continue;
        std::atomic<bool> failing{false};
        const auto bad = translation([&](Role from, std::span<const std::int32_t> step) -> Tokens {
          if (!failing) return other(from, step);
          if (throws) throw std::runtime_error("no such text");
          return {kVocab};
        });
        Engine engine(pair.target, pair.draft, vocabulary(), options(method, 1, inline_mode), bad);
        for (int i = 0; i < 4; ++i) {
          CAPTURE(i);
          failing = i == 1;
          const auto id = engine.submit(request(i, 10, 60, 9));
          std::optional<Output> done;
          while (auto e = engine.next_event(id, 60)) {
            if (e->output.kind != Output::Kind::done) continue;
            done = e->output;
            break;
          }
          REQUIRE(done);
          CHECK((done->reason == FinishReason::error) == (i == 1));
          const char* says = throws ? "no such text" : "vocabulary of 96";
          if (i == 1) CHECK(done->error.find(says) != std::string::npos);
        }
      }
}

TEST_CASE("cancelled and closed while translations are out: nothing is left behind") {
  const Pair pair;
  const auto slow = translation([](Role from, std::span<const std::int32_t> step) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    return other(from, step);
  });
  for (int round = 0; round < 10; ++round) {
    Engine engine(pair.target, pair.draft, vocabulary(), options(Method::fpsr, 0.5, false), slow);
    std::vector<RequestId> ids;
    for (int i = 0; i < 8; ++i) ids.push_back(engine.submit(request(i, 10 + i, 300, 50)));
    std::this_thread::sleep_for(std::chrono::microseconds(700 * round));
    for (std::size_t i = 0; i < ids.size(); i += 2) engine.cancel(ids[i]);
    if (round % 2) engine.close();
    for (RequestId id : ids) CHECK(drain(engine, id).reason != FinishReason::error);
    if (round % 2) continue;
    check_nothing_left(engine);
  }
}

TEST_CASE("a draft's vocabulary must be the draft's") {
  const Pair pair;
  auto wrong = translation();
  wrong.draft.eos = {kVocab};
  CHECK_THROWS_WITH_AS(
      Engine(pair.target, pair.draft, vocabulary(), options(Method::fpsr, 0.7, true), wrong),
      doctest::Contains("outside the model's vocabulary"), Error);
}
