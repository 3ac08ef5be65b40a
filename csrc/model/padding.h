#pragma once
// Decode batches filled up with rows that nobody reads, so that a few graphs serve every number of
// rows (model/graphs.h).
#include "core/stream.h"
#include "kv/kv_store.h"
#include "model/batch.h"
#include "model/config.h"

namespace dream_r {

// 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, ...: what `rows` is filled up to. Products cost the same up to
// the next 8, 16, 32 or 64 rows (their tile of the tensor cores), but attention is cut for all rows
// of a batch, so steps are two an octave: never half as many rows again. More than 256 stay as they
// are: with more, a product may go to another kernel.
std::size_t padded_rows(std::size_t rows);

class PaddedBatch {
 public:
  // Where it pays: on a CUDA device, every row one token of text whose logits are wanted, of a
  // model without experts. (Another row chooses experts of its own: in every layer the weights of
  // up to `per_token` more to read, for nobody.)
  static bool fits(const Stream& stream, const Batch& batch, const TextConfig& config);

  // Behind the rows of `batch` others of one token, all alike. Each sees itself alone and is
  // written to the cache's spare block; their logits stand last.
  PaddedBatch(const Batch& batch, const KvStore& kv);
  PaddedBatch(const PaddedBatch&) = delete;
  PaddedBatch& operator=(const PaddedBatch&) = delete;

  const Batch& batch() const { return padded_; }
  // Of the result of batch(): what the one that was given had asked for.
  ForwardResult cut(ForwardResult result) const;

 private:
  std::int32_t spare_;  // a block table of one
  std::size_t rows_;
  Batch padded_;
};

}  // namespace dream_r
