#pragma once
// What a lane does with one Work, forward by forward: plan() adds its rows to the pass and says
// what it wants to know of them, take() reads the answers. Lives on the lane's thread.
#include <memory>
#include <span>
#include <vector>

#include "core/stream.h"
#include "model/model.h"
#include "runtime/options.h"
#include "runtime/pass.h"
#include "runtime/vocabulary.h"
#include "runtime/work.h"

namespace dream_r {

// What all bursts of a lane share.
struct BurstContext {
  const Model& model;
  const Vocabulary& vocabulary;
  const EngineOptions& options;
  Stream& stream;
};

class Burst {
 public:
  Burst(WorkPtr work, const BurstContext& context);
  virtual ~Burst() = default;
  Work& work() { return *work_; }
  const WorkPtr& handle() const { return work_; }
  bool finished() const { return finished_; }
  virtual void plan(Pass& pass) = 0;
  virtual void take(Pass& pass) = 0;

 protected:
  // Positions of cache entries [begin, end) of this request's sequence.
  void append_positions(std::int32_t begin, std::int32_t end);
  // How the token with this random key is drawn, after the first `seen` of seen_.
  ops::SampleRow draw(std::int32_t step, std::int32_t token, std::size_t seen) const;
  KvSpan own() const { return {work_->table.data(), written_}; }

  WorkPtr work_;
  const BurstContext& context_;
  const ModelPrompt& prompt_;
  std::vector<Position> positions_;
  std::vector<std::int32_t> seen_;        // for penalties: context and this branch's own tokens
  std::vector<std::int32_t> suppressed_;  // those of the vocabulary, then EOS
  std::size_t never_ = 0;                 // how many of them no token may be, EOS or not
  std::int32_t written_;
  bool finished_ = false;
};

// Reads a prompt, chunk by chunk; the first chunk that needs pictures has them encoded. The
// target's also chooses the first token of step 0.
std::unique_ptr<Burst> make_prefill(WorkPtr work, const BurstContext& context);
// Writes one step (draft: a candidate; target: its own) or a piece of the answer.
std::unique_ptr<Burst> make_decode(WorkPtr work, const BurstContext& context);
// Judges drafted steps in one pass: the steps in a row, each scoring suffix a branch of its own.
std::unique_ptr<Burst> make_verify(WorkPtr work, const BurstContext& context);

std::unique_ptr<Burst> make_burst(WorkPtr work, const BurstContext& context);

// The token ids whose logits a verdict reads, in the order of the keyword head: positive then
// negative, or the digits' ids in order.
std::vector<std::int32_t> keyword_ids(const Vocabulary& vocabulary, Judge judge);

}  // namespace dream_r
