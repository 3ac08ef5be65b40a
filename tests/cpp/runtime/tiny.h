#pragma once
// A tiny random pair and a vocabulary in which steps, thoughts and answers all end now and then.
#include <algorithm>
#include <memory>

#include "doctest.h"
#include "model/vl_model.h"
#include "runtime/engine.h"

namespace dream_r::tiny {

constexpr int kVocab = 96;

inline std::shared_ptr<const Model> model(int hidden, int layers, std::uint32_t seed,
                                          DType dtype = DType::f32, Device device = {}) {
  ModelConfig c;
  c.model_type = "qwen3_vl";
  c.text.hidden = hidden, c.text.layers = layers, c.text.heads = 2, c.text.kv_heads = 1;
  c.text.head_dim = 16, c.text.ffn = 2 * hidden, c.text.vocab = kVocab;
  c.text.mrope_sections = {4, 2, 2};
  c.text.tied_head = false;
  c.text.max_positions = 4096;
  return random_model(c, {dtype, 1, device}, seed);
}

inline Vocabulary vocabulary() {
  Vocabulary v;
  v.classes.assign(kVocab, 0);
  for (int t : {1, 2, 3, 4, 5}) v.classes[t] = token_class::blank_line | token_class::ends_newline;
  v.classes[6] = token_class::starts_newline | token_class::ends_newline | token_class::white_space;
  v.classes[7] = token_class::ends_newline;
  v.eos = {90};
  v.think_end = 91;
  v.forced_end = {91, 1};
  v.suppressed = {92, 93};
  v.suffix = {50, 51, 52};
  v.positive = {60};
  v.negative = {61};
  return v;
}

inline std::shared_ptr<RequestSpec> request(int seed, int prompt, int budget, int answer,
                                            float temperature = 1.0f) {
  auto spec = std::make_shared<RequestSpec>();
  std::uint32_t state = static_cast<std::uint32_t>(seed) * 747796405u + 1u;
  for (int i = 0; i < prompt; ++i) {
    state = state * 1664525u + 1013904223u;
    spec->target.ids.push_back(static_cast<std::int32_t>((state >> 16) % 90));
    spec->target.positions.push_back({i, i, i});
  }
  spec->draft = spec->target;
  spec->seed = static_cast<std::uint64_t>(seed);
  spec->thinking_budget = budget;
  spec->max_tokens = answer;
  spec->sampling.temperature = temperature;
  return spec;
}

struct Pair {
  std::shared_ptr<const Model> target = model(32, 2, 1), draft = model(16, 1, 2);
};

inline EngineOptions options(Method method, double alpha, bool inline_mode) {
  EngineOptions o;
  o.method = method;
  o.alpha = alpha;
  o.inline_mode = inline_mode;
  o.max_step_tokens = 12;
  o.answer_burst = 5;
  o.prefill_chunk = 7;
  o.max_requests = 4;
  o.target_kv_tokens = 4096;
  o.target_threads = 2;
  return o;
}

struct Outcome {
  std::vector<std::int32_t> tokens;  // everything committed, in order
  int draft_steps = 0, target_steps = 0;
  FinishReason reason = FinishReason::error;
  RequestMetrics metrics;
  std::vector<float> rho;
  std::vector<std::pair<Author, std::int32_t>> steps;  // and their tokens; the forced one left out
};

// Reads a request to its end. A minute without an event is a hang.
inline Outcome drain(Engine& engine, RequestId id) {
  Outcome o;
  while (auto e = engine.next_event(id, 60)) {
    const auto& part =
        e->output.kind == Output::Kind::step ? e->output.step.tokens : e->output.tokens;
    o.tokens.insert(o.tokens.end(), part.begin(), part.end());
    if (e->output.kind == Output::Kind::step) {
      o.draft_steps += e->output.step.author == Author::draft;
      o.target_steps += e->output.step.author == Author::target;
      if (e->output.step.author != Author::forced)
        o.steps.emplace_back(e->output.step.author, static_cast<std::int32_t>(part.size()));
      if (e->output.step.author == Author::draft) o.rho.push_back(e->output.step.rho);
    }
    if (e->output.kind != Output::Kind::done) continue;
    o.reason = e->output.reason;
    o.metrics = e->output.metrics;
    return o;
  }
  DR_FAIL(state) << "request " << id << " hangs";
}

// Works that were cancelled come back within a token; then every block but the cached prompts' is
// free.
inline void settle(Engine& engine) {
  for (int i = 0; i < 10000 && engine.pool_stats().in_flight > 0; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  engine.drop_prefixes();
}

inline void check_nothing_left(Engine& engine) {
  settle(engine);
  const auto pools = engine.pool_stats();
  CHECK(pools.live == 0);
  CHECK(pools.in_flight == 0);
  CHECK(pools.target_used == 0);
  CHECK(pools.draft_used == 0);
}

// Six requests of different lengths at once, to their ends; nothing of them is left in the caches.
inline std::vector<Outcome> run(const Pair& pair, const EngineOptions& o, float temperature,
                                const std::optional<Translation>& translation = {},
                                const Vocabulary& words = vocabulary()) {
  Engine engine(pair.target, pair.draft, words, o, translation);
  std::vector<RequestId> ids;
  for (int i = 0; i < 6; ++i)
    ids.push_back(engine.submit(request(i, 5 + 3 * i, 20 + 7 * i, 9, temperature)));
  std::vector<Outcome> outcomes;
  for (RequestId id : ids) outcomes.push_back(drain(engine, id));
  check_nothing_left(engine);
  return outcomes;
}

// Judges of random weights differ little: an alpha at their median brings both verdicts.
inline double median_rho(const Pair& pair, EngineOptions o,
                         const std::optional<Translation>& translation = {}) {
  o.alpha = 0;
  std::vector<float> rho;
  for (const auto& r : run(pair, o, 1.0f, translation))
    rho.insert(rho.end(), r.rho.begin(), r.rho.end());
  REQUIRE(rho.size() > 4);
  std::sort(rho.begin(), rho.end());
  return rho[rho.size() / 2];
}

}  // namespace dream_r::tiny
