#pragma once
// The state machine of one request (method, section 3): trace, window, KV branches. No threads, no
// clocks, no models: facts come in through on_*(), settle() applies what they decide, and what must
// run next goes out through Host. The manager alone touches it.
#include <deque>
#include <memory>
#include <optional>
#include <vector>

#include "kv/kv_store.h"
#include "kv/sequence.h"
#include "runtime/policy.h"
#include "runtime/vocabulary.h"
#include "runtime/work.h"

namespace dream_r {

enum class Phase : std::uint8_t { prefill, reasoning, answer, done };

// What a session needs of its manager.
class SessionHost {
 public:
  virtual ~SessionHost() = default;
  virtual BlockPool& pool(Role role) = 0;
  // Makes `blocks` free in a pool that has none left: cached prefixes go first. False: nothing
  // gave.
  virtual bool make_room(Role role, std::int32_t blocks) = 0;
  virtual KvSequence match_prefix(Role role, const ModelPrompt& prompt) = 0;
  virtual void remember_prefix(Role role, const ModelPrompt& prompt, const KvSequence& kv) = 0;
  virtual void start(WorkPtr work) = 0;
  virtual void committed(RequestId request, const CommittedStep& step) = 0;
  virtual void answered(RequestId request, const std::vector<std::int32_t>& tokens) = 0;
  virtual void finished(RequestId request, FinishReason reason, const std::string& error) = 0;
  virtual void learn(const StepFact& fact) = 0;  // race first: engine-wide estimates
  virtual const Estimates& estimates() const = 0;
  virtual const Speeds& speeds() const = 0;
  virtual std::uint64_t next_work_id() = 0;
};

class Session {
 public:
  Session(RequestId id, std::shared_ptr<const RequestSpec> spec, const EngineOptions& options,
          const Vocabulary& vocabulary, const DraftTokens* draft_tokens, const Policy& policy,
          bool has_draft, SessionHost& host);

  void start();
  void done(Work& work);  // any work of this request has come back from its lane
  void cancel();
  void fail(const std::string& error) { finish(FinishReason::error, error); }
  void settle();  // applies verdicts and own steps in order, then starts whatever may start

  RequestId id() const { return id_; }
  Phase phase() const { return phase_; }
  // Wants memory it could not have; settle() again when some work has returned.
  bool starved() const { return starved_; }
  bool idle() const { return in_flight_.empty(); }
  std::uint32_t epoch() const { return epoch_; }
  // Most drafted steps that may wait: the window, or less once memory was short.
  std::int32_t window_limit() const { return window_limit_; }
  const RequestMetrics& metrics() const { return metrics_; }
  const std::vector<std::int32_t>& trace() const { return trace_; }
  // Most blocks a plain run of this request ever holds in the pool of `role`.
  static std::int32_t worst_case_blocks(const RequestSpec& spec, const Vocabulary& v, Role role);
  // Gives up speculation to free memory. False when there was none.
  bool shed();

 private:
  // A drafted step that waits for its commit.
  struct Candidate {
    std::int32_t index = 0;
    std::vector<std::int32_t> tokens;        // the target's; none while it is translating
    std::vector<std::int32_t> draft_tokens;  // as the draft wrote it, where tokenizers differ
    StepEnd end = StepEnd::boundary;
    KvSequence draft_kv;   // the draft's cache at its end (the last token not yet read)
    KvSequence target_kv;  // the target's cache at its end, once judged
    // guessed: in the place of a rejected step, as the draft goes on from what the target has begun
    // of it (`own`); the first of the window while the target writes that step, and never judged.
    enum class State : std::uint8_t { translating, waiting, judging, judged, guessed };
    State state = State::waiting;
    bool skipped = false;  // judged without a pass
    float rho = std::numeric_limits<float>::quiet_NaN();
    bool accept = false;
    std::int32_t next_token = -1;
    std::vector<std::int32_t> own;  // rejected: see Judgement::own; target_kv then ends before its
                                    // last token
    double begin = 0, finish = 0;
  };
  // Cache branches that a running work writes; they live until the lane hands the work back.
  struct InFlight {
    WorkPtr work;
    KvSequence kv;
    std::vector<KvSequence> scratch;  // of scoring suffixes
    bool current = true;              // false: cancelled, its result is dropped
  };
  // A model's cache at the last committed step, and what it has not read yet.
  struct Trunk {
    KvSequence kv;
    std::int32_t next_token = -1;  // the target's own first token of the next step, if known
    bool ready = false;            // its prompt is read
  };

  // facts
  void on_prefill(Work& work, InFlight& held);
  void on_draft(Work& work, InFlight& held);
  void on_draft_answer(Work& work);
  void on_guess(Work& work, InFlight& held);
  void on_verify(Work& work, InFlight& held);
  void on_own(Work& work, InFlight& held);
  void on_answer(Work& work, InFlight& held);
  void on_translated(Work& work);
  // decisions
  bool apply_one();
  bool own_may_commit();
  void accept_head();
  void reject_head();
  void commit_own();
  bool guess_was_right();
  void commit(CommittedStep step, bool judged, std::vector<std::int32_t> draft_tokens = {});
  void end_reasoning(bool forced);
  void commit_forced_end();
  // starting
  void start_all();
  void start_prefill(Role role);
  bool start_own();
  void start_verify();
  void start_draft();
  void start_answer();
  void start_draft_answer();
  void start_guess();
  void propose(Work& work, std::span<const std::int32_t> tokens) const;
  void start_translate();
  bool can_draft();
  bool may_still_draft();
  // helpers
  Decision decision(std::int32_t step);
  void drop_speculation();
  void cut_window(std::size_t steps);
  void release_draft();
  void cancel_work(std::optional<std::uint64_t>& id);
  WorkPtr make_work(Role role, WorkKind kind, std::int32_t step);
  bool reserve(Role role, KvSequence& kv, std::int32_t tokens, bool essential, Work* work);
  static void prepare(Work& work, const KvSequence& kv, const BlockCopyPlan& copy);
  void launch(WorkPtr work, KvSequence kv, std::vector<KvSequence> scratch = {});
  void fill_context(Work& work);
  void feed_target(Work& work, KvSequence& kv);
  static KvSequence take_written(InFlight& held);
  std::vector<std::int32_t> unread(const KvSequence& kv, Role role) const;
  // Committed tokens after the prompt, and a step's, as that model reads them.
  const std::vector<std::int32_t>& trace_of(Role role) const {
    return draft_tokens_ && role == Role::draft ? draft_trace_ : trace_;
  }
  const std::vector<std::int32_t>& tokens_of(const Candidate& c, Role role) const {
    return draft_tokens_ && role == Role::draft ? c.draft_tokens : c.tokens;
  }
  bool is_step(const Candidate& c) const;
  // The draft cannot read the committed trace yet: steps of the target wait for their translation.
  bool behind() const { return !untranslated_.empty(); }
  std::int32_t draft_room() const;
  std::int32_t budget_left() const;
  std::int32_t speculative_tokens() const;
  void finish(FinishReason reason, const std::string& error = {});

  const RequestId id_;
  const std::shared_ptr<const RequestSpec> spec_;
  const EngineOptions& options_;
  const Vocabulary& vocabulary_;
  const DraftTokens* const draft_tokens_;  // nullptr: one tokenizer, and nothing is translated
  const Policy& policy_;
  SessionHost& host_;

  Phase phase_ = Phase::prefill;
  std::uint32_t epoch_ = 0;
  std::vector<std::int32_t> trace_;        // committed tokens after the prompt
  std::vector<Estimates> history_ = {{}};  // after each committed step; [0]: before any
  std::int32_t reasoning_tokens_ = 0;
  std::int32_t steps_ = 0;                 // committed steps (k)
  std::vector<std::int32_t> last_step_;    // as the draft reads it
  std::vector<std::int32_t> draft_trace_;  // of the reasoning; where tokenizers differ
  // Committed steps of the target that draft_trace_ lacks, in order. Then the window is empty.
  std::deque<std::vector<std::int32_t>> untranslated_;
  Trunk target_, draft_;
  std::deque<Candidate> window_;
  std::int32_t window_limit_ = 0;
  std::vector<std::pair<std::int32_t, Decision>> decisions_;  // of steps k.. , not yet committed
  bool correcting_ = false;   // the head was rejected: the target's own step will be committed
  bool end_drafted_ = false;  // nothing may be drafted after the window's last step
  bool starved_ = false;
  bool forced_ = false;  // reasoning was ended by the runtime
  std::int32_t answer_tokens_ = 0;
  std::vector<std::int32_t> last_own_;  // the target's own ended step
  StepEnd own_end_ = StepEnd::boundary;
  bool own_ended_ = false;
  // What the verdict's pass found of the target's own step (Judgement::own), until that is started.
  std::vector<std::int32_t> begun_;
  KvSequence begun_kv_;
  KvSequence guess_kv_;  // the draft's cache there, until it goes on from it
  KvSequence own_kv_;
  // How the draft would begin the answer; it has nothing else to do while its last step is judged.
  std::vector<std::int32_t> draft_answer_;
  bool draft_answered_ = false;
  double own_begin_ = 0, own_finish_ = 0;
  double clock_ = 0;  // when the last work came back, for steps that no work wrote
  // The current ones.
  std::optional<std::uint64_t> target_prefill_, draft_prefill_, draft_work_, verify_work_,
      own_work_, translation_, draft_answer_work_, guess_work_;
  std::vector<std::pair<std::uint64_t, InFlight>> in_flight_;
  RequestMetrics metrics_;
};

}  // namespace dream_r
