#pragma once
// What one forward computes: ragged rows of many sequences, and which logits are wanted. Plain
// data; the memory it points to belongs to the lane's work items and outlives the forward.
#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "core/tensor.h"
#include "ops/attention_rows.h"

namespace dream_r {

// Outputs of the vision tower for one prompt's images, in prompt order.
struct ImageFeatures {
  Tensor embeds;                  // f32 [V, hidden]: one row a visual token
  std::vector<Tensor> deepstack;  // each f32 [V, hidden], added after text layers 0, 1, 2, ...
};

using Position = std::array<std::int32_t, 3>;  // time, height, width

struct KvSpan {
  const std::int32_t* table = nullptr;
  std::int32_t length = 0;  // tokens already in the cache
};

// A run of consecutive new tokens of one sequence (see ops::AttentionRow for prefix and own).
// Their KV is written to `own` at [own.length, own.length + tokens.size()).
struct BatchRow {
  std::span<const std::int32_t> tokens;
  std::span<const Position> positions;
  KvSpan prefix;
  KvSpan own;
  const ImageFeatures* features = nullptr;
  std::span<const std::int32_t> feature_rows;  // per token: row of `features`, or -1; empty = none
};

// Logits of token `token` of row `row`: over the whole vocabulary, or the verifier's keywords
// alone.
struct LogitsWanted {
  std::int32_t row = 0;
  std::int32_t token = 0;
  bool keywords = false;
};

struct Batch {
  std::vector<BatchRow> rows;
  std::vector<LogitsWanted> wanted;
};

// The logits wanted, on the model's device and in the arena: valid until its next forward.
struct ForwardResult {
  Tensor full;      // f32 [n, vocab]: those of the whole vocabulary, in the order of Batch::wanted
  Tensor keywords;  // f32 [m, keywords]: the others, likewise; each undefined where none is wanted
  // Of all tokens, where the last layer stops being anyone's business but their own: what
  // Model::late_logits reads. Undefined where no logits were wanted, or where features of a picture
  // are added after the last layer.
  Tensor residual, attended;
  // Where `attended` is that of the tokens wanted alone: what the others' is made of, with the
  // tables that the batch pointed to.
  Tensor qkv{};
  std::vector<ops::AttentionRow> rows{};
  std::vector<std::int64_t> first;  // per row of the batch: its first token in these
};

}  // namespace dream_r
