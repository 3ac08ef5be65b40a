#pragma once
// What a user asks for, as the runtime sees it: token ids, pixels and limits. Immutable once
// submitted.
#include <array>
#include <cstdint>
#include <limits>
#include <memory>
#include <vector>

#include "core/tensor.h"
#include "kv/prefix_index.h"
#include "model/batch.h"
#include "ops/ops.h"

namespace dream_r {

using RequestId = std::uint64_t;
enum class Role : std::uint8_t { draft, target };

// One model's reading of the prompt; each model has its own ids, pixels and positions.
struct ModelPrompt {
  std::vector<std::int32_t> ids;
  std::vector<Position> positions;         // of `ids`
  std::int32_t rope_delta = 0;             // token i after the prompt has position i + rope_delta
  std::vector<std::int32_t> feature_rows;  // per id: row of ImageFeatures or -1; empty = no image
  Tensor patches;                          // f32 [N, D] or undefined
  std::vector<std::array<std::int32_t, 3>> grids;
  std::vector<PromptKey::Image> images;  // id ranges and digests, for the prefix index
  PromptKey key() const { return {ids, images}; }
};

struct RequestSpec {
  ModelPrompt target;
  ModelPrompt draft;  // no ids when there is no draft model
  ops::SamplingParams sampling;
  std::uint64_t seed = 0;
  std::uint64_t index = 0;  // which of n samples: part of the random key
  std::int32_t thinking_budget = 4096;
  std::int32_t max_tokens = 1024;  // of the answer
  bool ignore_eos = false;
  const ModelPrompt& prompt(Role role) const { return role == Role::draft ? draft : target; }
  bool has_penalties() const {
    return sampling.repetition_penalty != 1.0f || sampling.presence_penalty != 0.0f;
  }
};

enum class Author : std::uint8_t { draft, target, forced };
// Why a step ended (method, section 1).
enum class StepEnd : std::uint8_t { boundary, think_end, eos, limit };

// A committed step. `tokens` include the boundary; an ending EOS is never kept.
struct CommittedStep {
  std::int32_t index = 0;
  Author author = Author::target;
  std::vector<std::int32_t> tokens;
  StepEnd end = StepEnd::boundary;
  // The verdict on it; NaN where no verdict was asked for.
  float rho = std::numeric_limits<float>::quiet_NaN();
  double begin = 0, finish = 0;  // seconds on the driver's clock
};

struct RequestMetrics {
  std::int64_t accepted = 0, rejected = 0;  // verdicts applied, skipped ones among the rejected
  // Rejected without a pass: EOS, blank, repeated, cut at the cap, no step in the target's tokens.
  std::int64_t skipped = 0;
  std::int64_t drafted = 0, verified = 0;              // steps
  std::int64_t ahead_drafted = 0, ahead_verified = 0;  // while an earlier verdict was still out
  std::int64_t target_steps = 0;  // steps the target wrote and that were committed
  std::int64_t draft_tokens = 0, target_tokens = 0;  // sampled (each its own), wasted included
  std::int64_t wasted_draft_tokens = 0, wasted_target_tokens = 0;
  std::int64_t proposed_tokens = 0, agreed_tokens = 0;  // Work::proposed, and what was kept of it
  std::int64_t reasoning_tokens = 0, answer_tokens = 0;
  std::int64_t nan_verdicts = 0, low_mass_verdicts = 0, truncated_steps = 0;
  std::int64_t hedged_steps = 0, sequential_steps = 0, off_steps = 0;
  std::int64_t translated = 0;     // steps put into the other model's tokens; 0: one tokenizer
  std::int64_t prefix_tokens = 0;  // of the target's prompt, found in the cache
  std::int32_t window = 0;         // at the end: less than asked for once speculation was shed
  bool degraded = false;           // speculation was shed for lack of memory
  bool budget_hit = false;
};

enum class FinishReason : std::uint8_t { stop, length, cancelled, error };

}  // namespace dream_r
