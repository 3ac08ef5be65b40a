// The engine with models, caches and lanes on a device, against the same on the CPU.
#include "doctest.h"
#include "model/f16_checkpoint.h"
#include "runtime/tiny.h"

using namespace dream_r;
using namespace dream_r::tiny;

namespace {

Pair pair_on(Device target, Device draft) {
  return {model(32, 2, 1, DType::f32, target), model(16, 1, 2, DType::f32, draft)};
}

void same_tokens(const std::vector<Outcome>& got, const std::vector<Outcome>& expected) {
  REQUIRE(got.size() == expected.size());
  for (std::size_t i = 0; i < got.size(); ++i) {
    CAPTURE(i);
    CHECK(got[i].tokens == expected[i].tokens);
    CHECK(got[i].reason == expected[i].reason);
  }
}

}  // namespace

TEST_CASE("a build without CUDA refuses a device in one line") {
  if (kHasCuda) return;
  CHECK_THROWS_WITH_AS(model(16, 1, 1, DType::f32, cuda_device()), doctest::Contains("CUDA"),
                       Error);
}

TEST_CASE("device: greedy tokens of `ar` are the CPU's") {
  if (!kHasCuda) return;
  const auto o = options(Method::ar, 0.7, true);
  same_tokens(run(pair_on(cuda_device(), cuda_device()), o, 0.0f), run(Pair(), o, 0.0f));
}

TEST_CASE("device: graphs, and the rows that fill them up, change no token") {
  if (!kHasCuda) return;
  const Pair pair = pair_on(cuda_device(), cuda_device());
  auto o = options(Method::ar, 0.7, true);
  o.max_requests = 6;  // five rows, and fewer as they end
  const auto by_graphs = run(pair, o, 0.0f);
  o.cuda_graphs = false;
  same_tokens(by_graphs, run(pair, o, 0.0f));
}

TEST_CASE("device: greedy tokens in f16 are those of the CPU in f32 from the same numbers") {
  if (!kHasCuda) return;
  const test::TempFolder target, draft;
  test::write_f16_checkpoint(target, {96, 2, 2, 1, 64, 128, kVocab}, 1);
  test::write_f16_checkpoint(draft, {32, 1, 2, 1, 16, 64, kVocab}, 2);
  const auto pair = [&](DType dtype, Device device) -> Pair {
    return {load_model(target.path(), {dtype, 1, device}),
            load_model(draft.path(), {dtype, 1, device})};
  };
  const auto expected = run(pair(DType::f32, {}), options(Method::ar, 0.7, true), 0.0f);
  const Pair there = pair(DType::f16, cuda_device());
  same_tokens(run(there, options(Method::ar, 0.7, true), 0.0f), expected);
  auto o = options(Method::fpsr, 1.0, true);
  o.mode = ModeChoice::hedged;
  same_tokens(run(there, o, 0.0f), expected);
}

TEST_CASE("device: alpha 1 commits what `ar` writes, on any lane, threads and mode") {
  if (!kHasCuda) return;
  const Pair here = pair_on(cuda_device(), cuda_device());
  const Pair apart = pair_on(cuda_device(), {});
  const auto ar = run(Pair(), options(Method::ar, 0.7, true), 0.0f);
  for (VerifyLane verify : {VerifyLane::fused, VerifyLane::separate}) {
    auto o = options(Method::fpsr, 1.0, verify == VerifyLane::fused);
    o.verify = verify, o.mode = ModeChoice::hedged;
    same_tokens(run(here, o, 0.0f), ar);
    o.inline_mode = false, o.mode = ModeChoice::sequential;
    same_tokens(run(apart, o, 0.0f), ar);
  }
}

TEST_CASE("device: verdicts and what is committed are the CPU's") {
  if (!kHasCuda) return;
  auto o = options(Method::fpsr, 0.0, true);
  o.race = Race::verdict, o.min_mass = 1e-9;
  o.alpha = median_rho(Pair(), o);
  const auto expected = run(Pair(), o, 0.0f);
  const auto got = run(pair_on(cuda_device(), cuda_device()), o, 0.0f);
  same_tokens(got, expected);
  for (std::size_t i = 0; i < got.size(); ++i) {
    REQUIRE(got[i].rho.size() == expected[i].rho.size());
    for (std::size_t k = 0; k < got[i].rho.size(); ++k)
      CHECK(got[i].rho[k] == doctest::Approx(expected[i].rho[k]).epsilon(1e-4));
  }
}
