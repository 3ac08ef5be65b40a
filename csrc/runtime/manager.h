#pragma once
// The Manager: all mutable request state, and nothing else. (state, event) -> (state, actions); no
// threads, clocks or models inside. The engine, the tests and the simulator drive this very object.
// Touched by one thread at a time.
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "kv/prefix_index.h"
#include "runtime/session.h"

namespace dream_r {

struct Output {
  enum class Kind : std::uint8_t { step, answer, done } kind = Kind::step;
  RequestId request = 0;
  CommittedStep step;                        // step
  std::vector<std::int32_t> tokens;          // answer
  FinishReason reason = FinishReason::stop;  // done
  std::string error;
  RequestMetrics metrics;
};

// What must be done after an event: works to put on their lanes, outputs for the caller.
struct Actions {
  std::vector<WorkPtr> start;
  std::vector<Output> emit;
};

class Manager : private SessionHost {
 public:
  // `draft_blocks` 0: no draft model. Scripted runs need no vocabulary beyond token classes.
  // `draft_tokens`: where the draft's tokenizer is another one; then steps are translated.
  Manager(const EngineOptions& options, Vocabulary vocabulary, std::int32_t target_blocks,
          std::int32_t draft_blocks, std::optional<DraftTokens> draft_tokens = {});
  ~Manager() override;

  // Error (input) when the request can never fit the target's pool. Safe from any thread.
  void check_fits(const RequestSpec& spec) const;
  // Events.
  void submit(RequestId id, std::shared_ptr<const RequestSpec> spec, Actions& out);
  void cancel(RequestId id, Actions& out);
  void done(const WorkPtr& work, Actions& out);
  void set_speeds(const Speeds& speeds) { speeds_ = speeds; }

  // Inspection (tests, stats).
  BlockPool& pool(Role role) override { return role == Role::draft ? draft_pool_ : target_pool_; }
  const Session* session(RequestId id) const;
  std::size_t in_flight() const { return works_; }
  std::size_t live() const { return sessions_.size() + queue_.size(); }
  const Estimates& estimates() const override { return estimates_; }
  const Speeds& speeds() const override { return speeds_; }
  void check() const;  // recounts both pools
  void drop_prefixes();

 private:
  bool make_room(Role role, std::int32_t blocks) override;
  KvSequence match_prefix(Role role, const ModelPrompt& prompt) override;
  void remember_prefix(Role role, const ModelPrompt& prompt, const KvSequence& kv) override;
  void start(WorkPtr work) override;
  void committed(RequestId request, const CommittedStep& step) override;
  void answered(RequestId request, const std::vector<std::int32_t>& tokens) override;
  void finished(RequestId request, FinishReason reason, const std::string& error) override;
  void learn(const StepFact& fact) override { estimates_.add(fact); }
  std::uint64_t next_work_id() override { return ++work_id_; }

  void admit();
  bool known(RequestId id) const;
  void after(RequestId id);  // settles one request and whatever waits for what it gave back
  void rescue();             // when nothing runs: frees memory for a request that waits for it
  void sweep();              // forgets finished requests whose works have all returned
  PrefixIndex& index(Role role) { return role == Role::draft ? draft_index_ : target_index_; }

  EngineOptions options_;
  Vocabulary vocabulary_;
  std::optional<DraftTokens> draft_tokens_;
  std::unique_ptr<Policy> policy_;
  bool has_draft_;
  BlockPool target_pool_, draft_pool_;
  PrefixIndex target_index_, draft_index_;
  Estimates estimates_;
  Speeds speeds_;
  std::map<RequestId, std::unique_ptr<Session>> sessions_;
  std::map<RequestId, std::int32_t> promised_;  // worst-case target blocks of admitted requests
  std::int64_t promised_blocks_ = 0;
  std::deque<std::pair<RequestId, std::shared_ptr<const RequestSpec>>> queue_;
  std::size_t works_ = 0;
  std::uint64_t work_id_ = 0;
  Actions* out_ = nullptr;  // where the current event's actions go
};

}  // namespace dream_r
