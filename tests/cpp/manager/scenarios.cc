// The options, requests and pools of a schedule.
#include <algorithm>

#include "machine.h"

namespace dream_r::test {

namespace {

void fill_prompt(ModelPrompt& prompt, int tokens, std::uint64_t text) {
  for (int i = 0; i < tokens; ++i)
    prompt.ids.push_back(kWord + static_cast<std::int32_t>(mix(text, i) % kWords));
  for (int i = 0; i < tokens; ++i) prompt.positions.push_back({i, i, i});
}

std::shared_ptr<RequestSpec> random_spec(Random& r, std::uint64_t text) {
  auto spec = std::make_shared<RequestSpec>();
  const int shared = r.pick({0, 1, 1});  // prompts that begin alike, for the prefix index
  fill_prompt(spec->target, 1 + r.below(50), shared ? text : r.next());
  if (!r.chance(0.05)) fill_prompt(spec->draft, 1 + r.below(50), shared ? text : r.next());
  spec->seed = r.next();
  spec->thinking_budget = r.pick({0, 1, 5, 20, 60, 120});
  spec->max_tokens = r.pick({0, 1, 5, 20});
  if (r.chance(0.2)) spec->sampling.presence_penalty = 0.5f;
  return spec;
}

void random_options(Random& r, EngineOptions& o) {
  o.method = r.pick({Method::ar, Method::specreason, Method::fpsr, Method::fpsr, Method::fpsr,
                     Method::fpsr, Method::fpsr});
  o.window = 1 + r.below(6);
  o.race = r.pick({Race::first, Race::verdict});
  o.mode = r.pick({ModeChoice::automatic, ModeChoice::hedged, ModeChoice::hedged,
                   ModeChoice::sequential, ModeChoice::off});
  o.alpha = r.pick({0.7, 0.7, 0.7, 0.0, 0.99, 1.0});
  if (o.method == Method::specreason && r.chance(0.5)) o.judge = Judge::digit_average;
  if (o.judge != Judge::cpn) o.digit_threshold = 0.7;
  o.min_mass = r.pick({0.0, 0.0, 0.0, 0.1});
  o.max_step_tokens = r.pick({3, 16, 256});
  o.answer_burst = r.pick({1, 3, 8});
  o.proposals = r.pick({0, 2, 16});
  o.max_requests = r.pick({1, 2, 4});
  o.prefix_cache = r.chance(0.7);
}

}  // namespace

Scenario random_scenario(std::uint64_t seed) {
  Scenario s;
  s.seed = seed;
  Random r{mix(seed, 0xd1ce)};
  random_options(r, s.options);
  s.language.seed = r.next();
  s.language.accept = r.pick({0.2, 0.6, 0.9, 0.9});
  s.language.boundary = r.pick({0.05, 0.25, 0.5});
  s.language.alike = r.pick({0.0, 0.5, 0.9});
  const auto text = r.next();
  for (int n = 1 + r.below(4); n > 0; --n) s.specs.push_back(random_spec(r, text));
  std::int32_t most = 0;
  for (const auto& spec : s.specs)
    most = std::max(most, Session::worst_case_blocks(*spec, make_vocabulary(), Role::target));
  s.target_blocks = r.pick({most, most, most + most / 2, 200});
  s.draft_blocks = r.pick({0, 2, 6, 12, 200, 200});
  s.speeds = {r.pick({0.1, 0.3, 0.9}), r.pick({0.1, 0.3, 0.9}), r.pick({0.3, 1.0}),
              r.pick({0.3, 1.0}), r.pick({0.0, 1.0})};
  s.tongue = r.pick({Tongue::same, Tongue::same, Tongue::exact, Tongue::longer, Tongue::shorter});
  s.strange = r.pick({0.0, 0.1, 0.4});
  s.draft_positions = r.pick({100000, 100000, 60});
  return s;
}

Scenario plain_scenario(int requests) {
  Scenario s;
  s.seed = 1;
  for (int i = 0; i < requests; ++i) {
    auto spec = std::make_shared<RequestSpec>();
    fill_prompt(spec->target, 37, static_cast<std::uint64_t>(i));
    fill_prompt(spec->draft, 29, static_cast<std::uint64_t>(i));
    spec->seed = static_cast<std::uint64_t>(i) + 5;
    spec->thinking_budget = 120;
    spec->max_tokens = 12;
    s.specs.push_back(std::move(spec));
  }
  return s;
}

}  // namespace dream_r::test
