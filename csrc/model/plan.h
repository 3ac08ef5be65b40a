#pragma once
// A Batch laid out for the ops: flat tensors over all its tokens, checked. Row r's tokens are
// [first(r), first(r) + size), in the order of the rows.
#include <vector>

#include "core/arena.h"
#include "kv/kv_store.h"
#include "model/batch.h"
#include "model/config.h"
#include "ops/ops.h"

namespace dream_r {

// The image tokens of one row: features `source` go to the tokens `target`.
struct VisualSpan {
  const ImageFeatures* features = nullptr;
  std::int64_t begin = 0;  // first feature row, when they are consecutive
  Tensor source;           // i32 [n] feature rows, when they are not
  Tensor target;           // i32 [n] tokens
};

struct Plan {
  std::int64_t tokens = 0;
  Tensor ids;                       // i32 [tokens]
  Tensor positions;                 // i32 [tokens, 3]
  Tensor slots;                     // i32 [tokens]
  std::vector<std::int64_t> first;  // per row of the batch: its first token
  std::vector<ops::AttentionRow> row_list;
  ops::AttentionRows rows;  // of row_list
  // Those that the last layer attends. On the CPU tokens that nobody wants are left out; a device
  // has one upload and one graph of `rows`.
  std::vector<ops::AttentionRow> last_list;
  ops::AttentionRows last_rows;
  std::vector<VisualSpan> visuals;
  Tensor wanted;  // i32 [full + keywords] tokens; the full rows come first
  std::int64_t full = 0;
  std::int64_t keywords = 0;
};

// Every number of a batch goes to the stream's device in one copy, into memory taken from `arena`.
Plan make_plan(Stream& stream, Arena& arena, const KvStore& kv, const Batch& batch,
               const ModelConfig& config);

}  // namespace dream_r
