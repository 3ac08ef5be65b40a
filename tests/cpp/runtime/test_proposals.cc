// Tokens that the target reads ahead of its own choice: they change when it writes, never what.
#include <algorithm>

#include "doctest.h"
#include "runtime/lane.h"
#include "runtime/tiny.h"

using namespace dream_r;
using namespace dream_r::tiny;

namespace {

struct Proposals {
  std::int64_t read = 0, kept = 0;
};

// Adds what the runs proposed, and checks that they wrote `expected`.
void compare(const std::vector<Outcome>& got, const std::vector<Outcome>& expected,
             Proposals& all) {
  for (std::size_t i = 0; i < got.size(); ++i) {
    CAPTURE(i);
    CHECK(got[i].tokens == expected[i].tokens);
    CHECK(got[i].metrics.agreed_tokens <= got[i].metrics.proposed_tokens);
    all.read += got[i].metrics.proposed_tokens;
    all.kept += got[i].metrics.agreed_tokens;
  }
}

// The reasoning ends at a token that this pair does write when it is greedy.
Vocabulary ending_words(const Pair& pair) {
  Vocabulary words = vocabulary();
  words.think_end = run(pair, options(Method::ar, 0.7, true), 0.0f)[0].tokens[8];
  words.forced_end = {words.think_end, 1};
  return words;
}

}  // namespace

TEST_CASE("what is proposed to the target changes no token") {
  const Pair pair;
  const Vocabulary words = ending_words(pair);
  auto o = options(Method::fpsr, 0.0, true);
  o.race = Race::verdict;
  o.alpha = median_rho(pair, o);
  Proposals all;
  for (float temperature : {0.0f, 0.7f}) {
    o.proposals = 0;
    o.inline_mode = true;
    const auto expected = run(pair, o, temperature, {}, words);
    for (const auto& r : expected) CHECK(r.metrics.proposed_tokens == 0);
    for (int proposals : {1, 3, 16})
      for (ModeChoice mode : {ModeChoice::hedged, ModeChoice::sequential})
        for (bool inline_mode : {true, false}) {
          o.proposals = proposals, o.mode = mode, o.inline_mode = inline_mode;
          CAPTURE(proposals);
          CAPTURE(temperature);
          compare(run(pair, o, temperature, {}, words), expected, all);
        }
  }
  CHECK(all.read > 0);
}

// A draft that is the target foresees every step that the target writes in place of its own, and
// what it drafts after that stays.
TEST_CASE("a right guess changes no token") {
  Pair pair;
  pair.draft = pair.target;
  const auto expected = run(pair, options(Method::ar, 0.0, true), 0.0f);
  auto o = options(Method::fpsr, 1.0, true);
  o.mode = ModeChoice::sequential;
  for (const int proposals : {1, 16})
    for (const bool inline_mode : {true, false}) {
      o.proposals = proposals, o.inline_mode = inline_mode;
      const auto got = run(pair, o, 0.0f);
      for (std::size_t i = 0; i < got.size(); ++i) {
        CHECK(got[i].tokens == expected[i].tokens);
        CHECK(got[i].metrics.rejected + got[i].metrics.skipped > 0);
      }
    }
}

namespace {

// A lane of its own that writes one piece of an answer after `prompt`.
struct Writer {
  std::shared_ptr<const Model> model = tiny::model(32, 2, 1);
  Vocabulary words = vocabulary();
  EngineOptions o = options(Method::fpsr, 0.7, true);

  WorkPtr write(std::shared_ptr<const RequestSpec> spec, std::vector<std::int32_t> proposed,
                std::int32_t limit) const {
    LaneClock clock(1);
    auto kv = std::make_shared<KvStore>(model->kv_shape(), 8);
    Lane lane(LaneId::target, model, kv, words, o, 1, clock, [](const WorkPtr&) {});
    auto work = std::make_shared<Work>();
    work->kind = WorkKind::decode;
    work->answer = true;
    work->spec = spec;
    work->table = {3, 1, 4, 0};
    work->feed = spec->target.ids;
    if (spec->has_penalties()) work->context = spec->target.ids;
    work->limit = limit;
    work->proposed = std::move(proposed);
    lane.push(work);
    while (lane.step()) {
    }
    return work;
  }
};

}  // namespace

TEST_CASE("proposals are kept as far as the target chooses the same, in one pass") {
  const Writer w;
  constexpr std::int32_t kLimit = 12;
  for (float temperature : {0.0f, 1.0f})
    for (float penalty : {0.0f, 1.5f}) {
      auto spec = request(3, 20, 0, kLimit, temperature);
      spec->ignore_eos = true;
      spec->sampling.presence_penalty = penalty;
      spec->sampling.repetition_penalty = 1 + penalty / 5;
      const WorkPtr plain = w.write(spec, {}, kLimit);
      REQUIRE(plain->tokens.size() == kLimit);
      CHECK(plain->forwards == kLimit);
      for (std::int32_t right = 0; right <= 8; ++right) {  // then one wrong, then right ones again
        CAPTURE(right);
        auto proposed = std::vector(plain->tokens.begin(), plain->tokens.begin() + 10);
        proposed[static_cast<std::size_t>(right)] = (plain->tokens[right] + 1) % 90;
        const WorkPtr ahead = w.write(spec, proposed, kLimit);
        CHECK(ahead->tokens == plain->tokens);
        CHECK(ahead->written == plain->written);
        CHECK(ahead->agreed == right);
        CHECK(ahead->forwards == kLimit - right);
      }
      const WorkPtr all =
          w.write(spec, std::vector(plain->tokens.begin(), plain->tokens.end() - 1), kLimit);
      CHECK(all->tokens == plain->tokens);
      CHECK(all->forwards == 1);
      CHECK(all->agreed == kLimit - 1);
    }
}

TEST_CASE("EOS among the proposals ends the answer there") {
  Writer w;
  const auto spec = request(3, 20, 0, 12, 0.0f);
  const auto plain = w.write(spec, {}, 12)->tokens;
  std::size_t at = 1;
  while (std::count(plain.begin(), plain.begin() + static_cast<std::ptrdiff_t>(at), plain[at]))
    ++at;
  w.words.eos = {plain[at]};
  const WorkPtr short_one = w.write(spec, {}, 12), ahead = w.write(spec, plain, 12);
  CHECK(short_one->tokens.size() == at + 1);
  CHECK(ahead->tokens == short_one->tokens);
  CHECK(ahead->end == StepEnd::eos);
  CHECK(ahead->written == short_one->written);
  CHECK(ahead->forwards == 1);
}
