#include "runtime/policy.h"

#include "core/check.h"
#include "doctest.h"
#include "runtime/speed_meter.h"
#include "runtime/vocabulary.h"

namespace dream_r {
namespace {

TEST_CASE("estimates follow verdicts and step lengths") {
  Estimates e;
  e.add({false, false, 10});  // no verdict
  CHECK(e.acceptance == 0.8);
  CHECK(e.accepted_tokens == 10);  // of all steps while none is accepted
  e.add({true, true, 30});
  CHECK(e.accepted_tokens == 30);
  CHECK(e.acceptance == doctest::Approx(0.8 + 0.2 / 16));
  e.add({true, false, 99});
  CHECK(e.accepted_tokens == 30);
  CHECK(e.steps == 3);
  CHECK(e.verdicts == 2);
  CHECK(e.whole_accepted == 1);
  e.add({true, true, 1000, false});  // cut at a limit: says nothing of a step's own length
  CHECK(e.accepted_tokens == 30);
  CHECK(e.whole == 3);
  for (int i = 0; i < 200; ++i) e.add({true, false, 1});
  CHECK(e.acceptance < 0.001);
}

Estimates seen(double acceptance, std::int64_t verdicts = 100, std::int64_t steps = 101) {
  Estimates e;
  e.acceptance = acceptance;
  e.verdicts = verdicts;
  e.steps = steps;
  e.whole = steps;
  e.accepted_tokens = 40;
  return e;
}

TEST_CASE("fpsr chooses hedged, sequential or off by the closed forms") {
  EngineOptions options;
  const auto policy = make_policy(options);
  const auto mode = [&](const Estimates& e, const Speeds& s) {
    return policy->decide(7, e, s).mode;
  };
  const Speeds apart{0.1, 0.1, 1, 1}, saturated{0.1, 0.1, 0.5, 0.5};
  CHECK(mode(seen(0.9), apart) == Mode::hedged);
  CHECK(mode(seen(0.1), apart) == Mode::hedged);  // the own step loses nothing by the draft
  CHECK(mode(seen(0.9), saturated) == Mode::sequential);
  CHECK(mode(seen(0.1), saturated) == Mode::off);  // d + v = 0.2 >= p
  CHECK(mode(seen(0.3), saturated) == Mode::sequential);
  CHECK(mode(seen(0.3), {0.1, 0.1, 0.9, 0.5}) == Mode::hedged);  // 0.9 + 0.7 * 0.5 > 1
  // Half of a rejected step need not be written again: in turn 0.2 + 0.7 / 2, beside 0.844.
  CHECK(mode(seen(0.3), {0.1, 0.1, 0.9, 0.5, 0, 0.5}) == Mode::sequential);
  CHECK(mode(seen(0.1), {0.1, 0.1, 0.5, 0.5, 0, 0.5}) == Mode::sequential);  // 0.65
  CHECK(mode(seen(0.1, 3), saturated) == Mode::sequential);  // too few verdicts to believe
  CHECK(policy->decide(128, seen(0.1), saturated).mode == Mode::sequential);  // one step in 64
}

TEST_CASE("steps are judged one at a time where a pass is bound by arithmetic") {
  const auto policy = make_policy({});
  CHECK(!policy->decide(7, seen(0.8), {0.1, 0.1, 1, 1, 0.2}).one_a_pass);
  CHECK(policy->decide(7, seen(0.8), {0.1, 0.1, 1, 1, 0.9}).one_a_pass);
  CHECK(policy->decide(7, seen(0.95), {0.1, 0.1, 1, 1, 0.9}).one_a_pass);  // it saves too little
  CHECK(!policy->decide(7, seen(0.95), {0.1, 0.1, 1, 1, 0.8}).one_a_pass);
}

struct Pass : Work {
  Pass(Role r, WorkKind k, int passes, double time, std::size_t tokens_judged = 0) {
    role = r, kind = k, forwards = passes, seconds = time;
    if (tokens_judged > 0) judged.resize(1), judged[0].tokens.resize(tokens_judged);
  }
};

TEST_CASE("d and v follow the passes that came back") {
  using enum WorkKind;
  SpeedMeter meter({0.5, 0.6, 0.7, 0.8, 0.9});
  meter.add(Pass(Role::draft, decode, 10, 1));
  CHECK(meter.speeds().draft == 0.5);  // against nothing yet
  meter.add(Pass(Role::target, decode, 4, 2));
  CHECK(meter.speeds().draft == doctest::Approx(0.1 / 0.5));
  CHECK(meter.speeds().verify == 0.6);
  meter.add(Pass(Role::target, verify, 1, 2, 16));
  CHECK(meter.speeds().verify == doctest::Approx(2.0 / 16 / 0.5));
  CHECK(meter.speeds().relative_draft == 0.7);
  CHECK(meter.speeds().verify_more == 0.9);
  meter.add(Pass(Role::target, verify, 1, 1, 1));  // one token: it hardly counts
  CHECK(meter.speeds().verify == doctest::Approx((2.0 * 15 / 16 + 1) / 16 / 0.5));
  const double before = meter.speeds().verify;
  Pass stopped(Role::target, verify, 1, 100, 16);
  stopped.cancelled = true;
  meter.add(stopped);
  Pass failed(Role::draft, decode, 1, 100);
  failed.error = "lane error";
  meter.add(failed);
  meter.add(Pass(Role::draft, decode, 0, 0));  // cancelled before its first forward
  meter.add(Pass(Role::target, prefill, 1, 100));
  Pass again(Role::target, decode, 4, 2);
  again.rewrites = true, again.tokens.resize(10);
  meter.add(again);
  CHECK(meter.speeds().rewrite == doctest::Approx(0.4));
  Pass ahead(Role::target, decode, 3, 9);  // 8 of them for a pass that read what was proposed
  ahead.proposed.resize(5), ahead.first_seconds = 8;
  meter.add(ahead);
  CHECK(meter.speeds().draft == doctest::Approx(0.1 / 0.5));
  Pass foreseen(Role::target, decode, 1, 8);  // nothing but that pass, again and again
  foreseen.proposed.resize(5), foreseen.first_seconds = 8;
  for (int i = 0; i < 20000; ++i) meter.add(foreseen);
  CHECK(meter.speeds().draft == doctest::Approx(0.1 / 0.5));
  Pass late(Role::draft, decode, 1, 100);
  late.feed.resize(40);  // catches up first
  meter.add(late);
  CHECK(meter.speeds().verify == before);
  CHECK(meter.speeds().draft == doctest::Approx(0.1 / 0.5));
  for (int i = 0; i < 200; ++i) meter.add(Pass(Role::draft, decode, 1, 0.4));
  CHECK(meter.speeds().draft == doctest::Approx(0.8).epsilon(1e-3));
}

TEST_CASE("a drafted step is cut at about twice the mean accepted length") {
  EngineOptions options;
  const auto policy = make_policy(options);
  const auto limit = [&](const Estimates& e) { return policy->decide(0, e, {}).draft_limit; };
  CHECK(limit({}) == 256);
  Estimates e = seen(0.9);
  CHECK(limit(e) == 80);
  e.accepted_tokens = 2;
  CHECK(limit(e) == 32);                 // no cap is below that
  CHECK(limit(seen(0.9, 3, 3)) == 256);  // too few steps to believe
  e.accepted_tokens = 200;
  CHECK(limit(e) == 256);
}

TEST_CASE("modes can be fixed; ar and specreason have one each") {
  EngineOptions options;
  const Speeds poor{2, 2, 0.1, 0.1};
  options.mode = ModeChoice::hedged;
  CHECK(make_policy(options)->decide(0, seen(0), poor).mode == Mode::hedged);
  options.mode = ModeChoice::off;
  CHECK(make_policy(options)->decide(0, seen(1), {}).mode == Mode::off);
  CHECK(make_policy(options)->window() == 4);
  options.method = Method::ar;
  CHECK(make_policy(options)->decide(0, seen(1), {}).mode == Mode::off);
  CHECK(make_policy(options)->window() == 0);
  options.method = Method::specreason;
  CHECK(make_policy(options)->decide(0, seen(0), poor).mode == Mode::sequential);
  CHECK(make_policy(options)->window() == 1);
}

// Tokens: 0 word, 1 "\n", 2 "\n\n", 3 ".\n\n", 4 " ", 5 "\nword", 8 </think>, 9 EOS.
Vocabulary small() {
  namespace c = token_class;
  Vocabulary v;
  v.classes = {0,
               c::starts_newline | c::ends_newline | c::white_space,
               c::blank_line | c::starts_newline | c::ends_newline | c::white_space,
               c::blank_line | c::ends_newline,
               c::white_space,
               c::starts_newline};
  v.eos = {9};
  v.think_end = 8;
  v.forced_end = {2, 8};
  v.positive = {5};
  v.negative = {6};
  return v;
}

// Index of the token that ends the step, or -1.
int ends(const Vocabulary& v, const std::vector<std::int32_t>& tokens, StepEnd* why = nullptr) {
  StepScanner scanner(v);
  for (std::size_t i = 0; i < tokens.size(); ++i)
    if (scanner.push(tokens[i])) {
      if (why) *why = scanner.end();
      return static_cast<int>(i);
    }
  return -1;
}

TEST_CASE("a step ends at a blank line, at </think> or at EOS") {
  const Vocabulary v = small();
  StepEnd why = StepEnd::limit;
  CHECK(ends(v, {0, 2}, &why) == 1);
  CHECK(why == StepEnd::boundary);
  CHECK(ends(v, {0, 3, 0}) == 1);
  CHECK(ends(v, {0, 1, 1}) == 2);  // a blank line made of two tokens
  CHECK(ends(v, {0, 1, 5}) == 2);
  CHECK(ends(v, {0, 1, 0, 1}) == -1);
  CHECK(ends(v, {1, 4, 1}) == -1);  // a space between
  CHECK(ends(v, {0, 8}, &why) == 1);
  CHECK(why == StepEnd::think_end);
  CHECK(ends(v, {9}, &why) == 0);
  CHECK(why == StepEnd::eos);
  CHECK(ends(v, {0, 77}) == -1);  // an id without a class
}

// 10 ".</", 11 "think", 12 ">", 13 ">\n\n", 14 "<", 15 "/think>.": what of </think> has been read.
Vocabulary spelled() {
  Vocabulary v = small();
  v.think_end = -1;
  v.classes.resize(14);
  v.classes[13] = token_class::blank_line | token_class::ends_newline;
  v.think_spelling = {{10, {2, 2, 2, 2, 2, 2, 2, 2}}, {11, {0, 0, 7, 0, 0, 0, 0, 0}},
                      {12, {0, 0, 0, 0, 0, 0, 0, 8}}, {13, {0, 0, 0, 0, 0, 0, 0, 8}},
                      {14, {1, 1, 1, 1, 1, 1, 1, 1}}, {15, {0, 8, 0, 0, 0, 0, 0, 0}}};
  return v;
}

TEST_CASE("a </think> of several tokens ends a step, however it is cut") {
  const Vocabulary v = spelled();
  StepEnd why = StepEnd::limit;
  CHECK(ends(v, {0, 10, 11, 12, 0}, &why) == 3);
  CHECK(why == StepEnd::think_end);
  CHECK(ends(v, {10, 11, 13}, &why) == 2);  // with the blank line in its last token
  CHECK(why == StepEnd::think_end);
  CHECK(ends(v, {14, 14, 15}, &why) == 2);
  CHECK(ends(v, {10, 10, 11, 12}) == 3);  // begun anew
  CHECK(ends(v, {10, 0, 11, 12}) == -1);
  CHECK(ends(v, {10, 11, 0, 12}) == -1);
  CHECK(ends(v, {11, 12, 12}) == -1);
  CHECK(ends(v, {10, 13}, &why) == 1);
  CHECK(why == StepEnd::boundary);
}

TEST_CASE("blank steps") {
  const Vocabulary v = small();
  CHECK(is_blank(v, {}));
  CHECK(is_blank(v, {4, 1, 2}));
  CHECK(!is_blank(v, {4, 3}));
  CHECK(!is_blank(v, {8}));
}

TEST_CASE("a vocabulary that contradicts itself is refused") {
  Vocabulary v = small();
  v.check(10);
  CHECK_THROWS_AS(v.check(9), Error);  // EOS lies outside
  v.negative = {6, 5};
  CHECK_THROWS_AS(v.check(10), Error);  // a keyword on both sides
  v = small();
  v.think_end = 10;
  CHECK_THROWS_AS(v.check(10), Error);
  v = small();
  v.suppressed = {-1};
  CHECK_THROWS_AS(v.check(10), Error);
  spelled().check(16);
  CHECK_THROWS_AS(spelled().check(15), Error);
  v = spelled();
  v.think_spelling[12][3] = 9;
  CHECK_THROWS_AS(v.check(16), Error);
}

}  // namespace
}  // namespace dream_r
