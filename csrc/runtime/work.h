#pragma once
// A Work is one burst that a lane runs for one request: read a prompt, write a step, judge drafted
// steps, or put a step into the other model's tokens. The manager fills the first part and never
// touches it again until the lane has handed the Work back; the lane fills the second part;
// `cancel` alone is shared while it runs.
#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "runtime/options.h"
#include "runtime/request.h"

namespace dream_r {

enum class WorkKind : std::uint8_t { prefill, decode, verify, translate };

// One drafted step to judge. For the digit judges (specreason) rho is the digit, 0 to 9.
struct Judgement {
  std::vector<std::int32_t> tokens;         // the step
  std::vector<std::int32_t> scratch_table;  // blocks for the scoring suffix alone
  float rho = std::numeric_limits<float>::quiet_NaN();
  float positive = 0, negative = 0;  // log-sum-exp of each side's keyword logits
  float mass = std::numeric_limits<float>::quiet_NaN();  // p+ + p-, only when asked for
  std::int32_t next_token = -1;  // the target's own first token after this step
  // The first step of a work that is rejected: the target's own first tokens of it, those of the
  // draft's that it chooses as well and then, where it differs, its own. May be empty: not known.
  std::vector<std::int32_t> own;
};

// Whether the verdict commits the step. A verdict that is no number, or hardly looked at the
// question, does not; a script decides without looking.
bool says_yes(const EngineOptions& options, const RequestSpec& spec, std::int32_t step,
              const Judgement& j);

struct Work {
  // ---- the manager's ----
  std::uint64_t id = 0;
  RequestId request = 0;
  Role role = Role::target;  // translate: whose tokens `feed` are
  WorkKind kind = WorkKind::decode;
  // decode: in place of a step that was rejected, the target's own or the draft's guess of it
  bool rewrites = false;
  bool answer = false;           // decode: the answer, which ends at EOS alone
  std::int32_t step = 0;         // of the first token written or judged: part of the random key
  std::int32_t first_token = 0;  // decode: index in its step of the first token it samples
  std::shared_ptr<const RequestSpec> spec;
  std::vector<std::int32_t> table;     // blocks for everything it may write
  std::int32_t cached = 0;             // tokens of `table` already written
  std::optional<ops::BlockCopy> copy;  // before the first write
  std::vector<std::int32_t> feed;  // tokens to read first, at positions `cached`...; may be empty
  // The target's own first tokens of the step (a guess of the draft: of the target's step), chosen
  // by a pass before; the cache has all but the last. Then `feed` is empty. (verify: of the first
  // step judged, at most one)
  std::vector<std::int32_t> head;
  // decode: what the draft thinks comes after `head`. Read along with it in one pass and kept as
  // far as the target draws the same, so that it changes when tokens are written and never which.
  std::vector<std::int32_t> proposed;
  std::vector<std::int32_t> context;  // prompt + trace before this work; only with penalties
  std::int32_t limit = 0;             // decode: most tokens to write, head included
  bool no_eos_first = false;          // the first token must not be EOS (an answer is never empty)
  std::vector<Judgement> judged;      // verify: in order; each follows the one before

  // ---- the lane's ----
  std::vector<std::int32_t> tokens;  // written (decode), or `feed` in the other model's tokens
  StepEnd end = StepEnd::limit;
  std::int32_t next_token = -1;  // prefill (target): the first token of step 0
  std::int32_t written = 0;      // tokens of the cache that are valid now
  std::int32_t agreed = 0;       // of `proposed`
  bool cancelled = false;
  std::string error;             // empty = fine
  double begin = 0, finish = 0;  // seconds on the driver's clock
  std::int32_t forwards = 0;     // passes it took part in
  double seconds = 0;            // their summed duration
  double first_seconds = 0;      // of the first pass, which also reads `feed` and `proposed`

  std::atomic<bool> cancel{false};
};

using WorkPtr = std::shared_ptr<Work>;

}  // namespace dream_r
