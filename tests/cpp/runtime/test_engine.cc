// The real engine on a tiny random pair: every way of running must commit what the target alone
// would.
#include <algorithm>
#include <array>
#include <atomic>
#include <filesystem>
#include <thread>

#if defined(__GLIBC__)
#include <malloc.h>
#endif

#include "doctest.h"
#include "runtime/tiny.h"

using namespace dream_r;
using namespace dream_r::tiny;

TEST_CASE("alpha 1 commits exactly what the target alone writes") {
  const Pair pair;
  for (float temperature : {0.0f, 1.0f}) {
    const auto ar = run(pair, options(Method::ar, 0.7, true), temperature);
    for (bool inline_mode : {true, false})
      for (int i = 0; i < 12; ++i) {  // every pair of values meets
        auto o = options(Method::fpsr, 1.0, inline_mode);
        o.race = i % 2 ? Race::first : Race::verdict;
        o.mode = std::array{ModeChoice::hedged, ModeChoice::sequential,
                            ModeChoice::automatic}[static_cast<std::size_t>(i % 3)];
        o.verify = i / 3 % 2 ? VerifyLane::fused : VerifyLane::separate;
        o.window = i / 6 ? 4 : 1;
        CAPTURE(i);
        const auto got = run(pair, o, temperature);
        for (std::size_t k = 0; k < ar.size(); ++k) {
          CAPTURE(k);
          CHECK(got[k].tokens == ar[k].tokens);
          CHECK(got[k].draft_steps == 0);
        }
      }
  }
}

TEST_CASE("a question of hundreds of tokens: speeds are measured, and steps judged, with it") {
  const Pair pair;
  Vocabulary words = vocabulary();
  words.suffix.assign(300, 50);
  auto o = options(Method::fpsr, 1.0, false);
  const auto ar = run(pair, options(Method::ar, 0.7, true), 0.0f);
  const auto got = run(pair, o, 0.0f, {}, words);
  for (std::size_t k = 0; k < ar.size(); ++k) CHECK(got[k].tokens == ar[k].tokens);
}

TEST_CASE("race verdict: the output is a function of the seed alone") {
  const Pair pair;
  auto o = options(Method::fpsr, 0.0, true);
  o.race = Race::verdict;
  o.alpha = median_rho(pair, o);
  const auto expected = run(pair, o, 1.0f);
  int drafted = 0, written = 0;
  for (const auto& r : expected) drafted += r.draft_steps, written += r.target_steps;
  CHECK(drafted > 0);
  CHECK(written > 0);
  for (ModeChoice mode : {ModeChoice::hedged, ModeChoice::sequential})
    for (VerifyLane verify : {VerifyLane::fused, VerifyLane::separate})
      for (int threads : {1, 2})
        for (int repeat = 0; repeat < 3; ++repeat) {
          auto p = o;
          p.inline_mode = false;
          p.mode = mode, p.verify = verify, p.target_threads = threads;
          p.max_requests = 1 + repeat;
          const auto got = run(pair, p, 1.0f);
          for (std::size_t i = 0; i < got.size(); ++i) CHECK(got[i].tokens == expected[i].tokens);
        }
}

TEST_CASE("the thinking budget is cut exactly and an answer follows") {
  const Pair pair;
  for (Method method : {Method::ar, Method::fpsr, Method::specreason}) {
    auto o = options(method, 0.3, false);
    for (const auto& r : run(pair, o, 1.0f)) {
      CHECK(r.metrics.answer_tokens > 0);
      if (r.metrics.budget_hit) CHECK(r.metrics.reasoning_tokens <= 20 + 7 * 5);
      CHECK((r.reason == FinishReason::stop || r.reason == FinishReason::length));
    }
  }
}

namespace {

std::size_t heap_in_use() {
#if defined(__GLIBC__)
  const auto info = mallinfo2();
  return info.uordblks + info.hblkhd;
#else
  return 0;
#endif
}

// `requests` with 16 in flight, two thirds cancelled at once, half of the rest a little later.
// Returns how many ended cancelled.
int storm(Engine& engine, int requests) {
  std::vector<RequestId> ids;
  int cancelled = 0;
  const auto finish_all = [&] {
    for (RequestId id : ids) cancelled += drain(engine, id).reason == FinishReason::cancelled;
    ids.clear();
  };
  for (int i = 0; i < requests; ++i) {
    ids.push_back(engine.submit(request(i, 6 + i % 40, 60, 12)));
    if (i % 3 != 0) engine.cancel(ids.back());
    if (ids.size() < 16) continue;
    std::this_thread::sleep_for(std::chrono::microseconds(50 * (i % 7)));
    for (std::size_t k = 0; k < ids.size(); k += 2) engine.cancel(ids[k]);
    finish_all();
  }
  finish_all();
  settle(engine);
  return cancelled;
}

}  // namespace

TEST_CASE("a request that has ended can be read without waiting") {
  const Pair pair;
  for (bool inline_mode : {true, false}) {
    Engine engine(pair.target, pair.draft, vocabulary(), options(Method::fpsr, 0.5, inline_mode));
    const RequestId id = engine.submit(request(1, 9, 60, 12));
    if (inline_mode) CHECK(!engine.wait(id, 0));  // one round of the lanes at a time
    REQUIRE(engine.wait(id, 60));
    CHECK(engine.wait(id, 0));
    std::int64_t events = 0;
    for (bool done = false; !done; ++events) {
      const auto event = engine.next_event(id, 0);
      REQUIRE(event);
      done = event->output.kind == Output::Kind::done;
    }
    CHECK(events > 2);
    CHECK_THROWS_AS(engine.wait(id, 0), Error);
    CHECK_THROWS_AS(engine.next_event(id, 0), Error);
  }
}

TEST_CASE("many callers at once: each brings events, and all are handled") {
  const Pair pair;
  const auto expected = run(pair, options(Method::ar, 0.7, true), 0.0f);
  Engine engine(pair.target, pair.draft, vocabulary(), options(Method::fpsr, 1.0, false));
  std::vector<std::thread> callers;
  std::atomic<int> wrong{0};
  for (int c = 0; c < 4; ++c)
    callers.emplace_back([&, c] {
      for (int k = 0; k < 12; ++k) {
        const int i = (c + k) % 6;
        const RequestId id = engine.submit(request(i, 5 + 3 * i, 20 + 7 * i, 9, 0.0f));
        const bool impatient = k % 4 == 3;
        if (impatient) engine.cancel(id);
        if (k % 2 == 0 && !engine.wait(id, 60)) ++wrong;
        const Outcome got = drain(engine, id);
        const auto& whole = expected[static_cast<std::size_t>(i)].tokens;
        wrong += got.reason == FinishReason::cancelled ? !impatient : got.tokens != whole;
        engine.pool_stats();
      }
    });
  for (auto& caller : callers) caller.join();
  CHECK(wrong == 0);
  check_nothing_left(engine);
}

TEST_CASE("a storm of cancellations leaves nothing behind") {
  const Pair pair;
  auto o = options(Method::fpsr, 0.5, false);
  o.max_requests = 16;
  o.target_kv_tokens = 16 * 512;
  o.trace = false;         // it grows by design
  o.prefix_cache = false;  // so does that, up to the pool
  Engine engine(pair.target, pair.draft, vocabulary(), o);
  CHECK(storm(engine, 300) > 100);  // buffers reach their size
  // What is left behind grows with every storm; a buffer that a rarer batch makes larger does so in
  // one of them, and which one is the schedule's.
  bool kept_nothing = false;
  for (int storms = 0; storms < 5 && !kept_nothing; ++storms) {
    const std::size_t before = heap_in_use();
    CHECK(storm(engine, 1000) > 300);
    kept_nothing = heap_in_use() < before + 100 * 1000;  // less than 100 bytes a request
  }
  CHECK(kept_nothing);
  check_nothing_left(engine);
}

TEST_CASE("closing an engine with requests in flight ends them") {
  const Pair pair;
  const auto threads = [] {
    return std::distance(std::filesystem::directory_iterator("/proc/self/task"),
                         std::filesystem::directory_iterator());
  };
  std::thread([] {}).join();  // a sanitizer adds one of its own with the first
  const auto before = threads();
  for (int i = 0; i < 40; ++i) {
    auto o = options(Method::fpsr, 0.5, false);
    o.verify = i % 2 ? VerifyLane::separate : VerifyLane::fused;
    auto engine = std::make_unique<Engine>(pair.target, pair.draft, vocabulary(), o);
    std::vector<RequestId> ids;
    for (int r = 0; r < 6; ++r) ids.push_back(engine->submit(request(r, 10 + r, 400, 100)));
    std::this_thread::sleep_for(std::chrono::microseconds(100 * i));
    engine->close();
    for (RequestId id : ids) {
      const auto reason = drain(*engine, id).reason;
      CHECK((reason == FinishReason::cancelled || reason == FinishReason::stop ||
             reason == FinishReason::length));
    }
    CHECK_THROWS_AS(engine->submit(request(1, 10, 20, 10)), Error);
  }
  // A joined thread's entry can outlive the join by a moment.
  for (int i = 0; i < 5000 && threads() != before; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  CHECK(threads() == before);
}

TEST_CASE("requests that cannot run are refused with their reason") {
  const Pair pair;
  Engine engine(pair.target, pair.draft, vocabulary(), options(Method::fpsr, 0.7, false));
  CHECK_THROWS_WITH_AS(engine.submit(request(1, 10, 5000, 10)), doctest::Contains("4096 positions"),
                       Error);
  CHECK_THROWS_WITH_AS(engine.submit(request(1, 1, 20, 10)), doctest::Contains("at least 2"),
                       Error);
  auto bad = options(Method::fpsr, 1.5, false);
  CHECK_THROWS_WITH_AS(Engine(pair.target, pair.draft, vocabulary(), bad),
                       doctest::Contains("alpha"), Error);
  bad = options(Method::fpsr, 0.7, false);
  bad.window = 0;
  CHECK_THROWS_WITH_AS(Engine(pair.target, pair.draft, vocabulary(), bad),
                       doctest::Contains("window"), Error);
  CHECK_THROWS_WITH_AS(
      Engine(pair.target, nullptr, vocabulary(), options(Method::fpsr, 0.7, false)),
      doctest::Contains("draft"), Error);
}
