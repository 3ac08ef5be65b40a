// FPSR: lookahead drafting, and the target's own step beside it where that pays (method, sections
// 3, 5).
#include <algorithm>
#include <cmath>

#include "runtime/policies/policies.h"

namespace dream_r {

namespace {
// In mode off one step in so many is drafted all the same. Counted over all steps that the
// estimates know: a request may be shorter than this.
constexpr std::int64_t kProbeEvery = 32;
constexpr std::int64_t kTrust = 4;      // verdicts, or steps, before a mean of them is believed
constexpr std::int32_t kShortest = 32;  // tokens: no cap is below this

// Time per step in units of the target's own (method, section 5) is below 1, in turn or beside.
bool pays(double p, const Speeds& s) {
  const double in_turn = s.draft + s.verify + (1 - p);
  const double verdict = (s.draft + s.verify) / s.relative_draft;
  const double beside = verdict + (1 - p) * std::max(0.0, 1 - s.relative_target * verdict);
  return std::min(in_turn, beside) < 1;
}

Mode choose(std::int64_t step, const Estimates& e, const Speeds& s) {
  const double p = e.acceptance;
  if (e.verdicts >= kTrust && !pays(p, s) && step % kProbeEvery != 0) return Mode::off;
  // Running the target beside the draft on one device pays iff r_D + (1 - p) r_T > 1.
  return s.relative_draft + (1 - p) * s.relative_target > 1 ? Mode::hedged : Mode::sequential;
}
}  // namespace

Decision FpsrPolicy::decide(std::int64_t step, const Estimates& e, const Speeds& s) const {
  Decision d;
  switch (options_.mode) {
    case ModeChoice::automatic:
      d.mode = choose(step, e, s);
      break;
    case ModeChoice::hedged:
      d.mode = Mode::hedged;
      break;
    case ModeChoice::sequential:
      d.mode = Mode::sequential;
      break;
    case ModeChoice::off:
      d.mode = Mode::off;
      break;
  }
  // Judged with the one before it, a step is for nothing where that one is rejected.
  d.one_a_pass = s.verify_more > e.acceptance;
  // A draft that never ends a step is cut at about twice the mean accepted length.
  d.draft_limit = options_.max_step_tokens;
  if (e.whole >= kTrust)
    d.draft_limit = std::min<std::int32_t>(
        d.draft_limit, std::max<std::int32_t>(kShortest, std::lround(2 * e.accepted_tokens)));
  return d;
}

}  // namespace dream_r
