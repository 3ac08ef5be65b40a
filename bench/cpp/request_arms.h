#pragma once
// What bench_request runs: the ways of running a request, what the closed forms expect of each, and
// the requests.
#include <memory>
#include <numeric>
#include <random>

#include "request_options.h"
#include "runtime/closed_forms.h"
#include "runtime/vocabulary.h"

namespace dream_r::bench {

struct Arm {
  std::string name;
  EngineOptions options;
};

// All of the speculative ways of running; `ar` is what they are measured against.
inline std::vector<Arm> all_arms() {
  std::vector<Arm> arms(1);
  arms[0].name = "specreason";
  arms[0].options.method = Method::specreason;
  arms[0].options.judge = Judge::digit_greedy;
  for (const auto& [mode, choice] :
       {std::pair{"auto", ModeChoice::automatic}, std::pair{"hedged", ModeChoice::hedged},
        std::pair{"sequential", ModeChoice::sequential}})
    for (const auto& [lane, verify] :
         {std::pair{"fused", VerifyLane::fused}, std::pair{"separate", VerifyLane::separate}}) {
      Arm arm{std::string("fpsr:") + mode + ":" + lane, {}};
      arm.options.mode = choice, arm.options.verify = verify;
      arms.push_back(arm);
    }
  return arms;
}

inline std::vector<Arm> chosen_arms(const RequestOptions& o) {
  std::vector<Arm> chosen;
  const auto all = all_arms();
  for (const std::string& name : o.methods) {
    const auto before = chosen.size();
    for (const Arm& arm : all)
      if (arm.name.starts_with(name)) chosen.push_back(arm);
    if (chosen.size() == before) refuse("no method begins with " + name);
  }
  return chosen;
}

// Expected time of a step in units of the target's own.
inline double closed_form(const EngineOptions& o, double p, const Speeds& s) {
  if (o.method == Method::specreason || o.mode == ModeChoice::sequential) return step_in_turn(p, s);
  if (o.mode == ModeChoice::hedged) return step_beside(p, s);
  return std::min({1.0, step_in_turn(p, s), step_beside(p, s)});
}

// Ids that the runtime needs; that random text has any of them ends nothing.
inline Vocabulary make_vocabulary(int suffix) {
  Vocabulary v;
  v.eos = {0};
  v.think_end = 1;
  v.forced_end = {1};
  v.suffix.resize(static_cast<std::size_t>(suffix));
  std::iota(v.suffix.begin(), v.suffix.end(), 100);
  v.digit_suffix = v.suffix;
  v.positive = {2};
  v.negative = {3};
  for (std::int32_t d = 0; d < 10; ++d) v.digits.push_back({10 + d});
  return v;
}

// Sampled as Qwen3-VL-Thinking's generation_config.json has it.
inline std::shared_ptr<RequestSpec> make_request(const RequestOptions& o, int number, int vocab) {
  auto spec = std::make_shared<RequestSpec>();
  const auto words = static_cast<unsigned>(vocab);
  std::mt19937_64 random(static_cast<unsigned>(o.seed) * 1000003ull +
                         static_cast<unsigned>(number));
  for (int i = 0; i < o.prompt; ++i) {
    spec->target.ids.push_back(static_cast<std::int32_t>(random() % words));
    spec->target.positions.push_back({i, i, i});
  }
  spec->draft = spec->target;
  spec->seed = static_cast<std::uint64_t>(o.seed);
  spec->index = static_cast<std::uint64_t>(number);
  spec->thinking_budget = o.tokens;
  spec->max_tokens = o.answer;
  spec->sampling.temperature = 1.0f;
  spec->sampling.top_k = 20;
  spec->sampling.top_p = 0.95f;
  return spec;
}

}  // namespace dream_r::bench
