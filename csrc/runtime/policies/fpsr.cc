// FPSR: lookahead drafting, and the target's own step beside it where that pays (method, sections
// 3, 5).
#include <algorithm>
#include <cmath>

#include "runtime/closed_forms.h"
#include "runtime/policies/policies.h"

namespace dream_r {

namespace {
// In mode off one step in so many is drafted all the same. Counted over all steps that the
// estimates know: a request may be shorter than this.
constexpr std::int64_t kProbeEvery = 64;
constexpr std::int64_t kTrust = 4;      // verdicts, or steps, before a mean of them is believed
constexpr std::int32_t kShortest = 32;  // tokens: no cap is below this
// The part of a pass that a second step in it must save: drafting further ahead wastes about as
// much. Measured with the pocket pair on two cores (p = 0.84; `verify_more` came out at 0.83 to
// 0.98 from start to start): one a pass always took 4 % less time a request than all that wait.
constexpr double kFurther = 0.1;

Mode choose(std::int64_t step, const Estimates& e, const Speeds& s) {
  const double p = e.acceptance;
  const double turn = step_in_turn(p, s), side = step_beside(p, s);
  if (e.verdicts >= kTrust && std::min(turn, side) >= 1 && step % kProbeEvery != 0)
    return Mode::off;
  return side < turn ? Mode::hedged : Mode::sequential;
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
  // Judged with the one before it, a step is for nothing where that one is rejected, and its
  // verdict comes later, while the draft goes on from what may be rejected.
  d.one_a_pass = s.verify_more + kFurther > e.acceptance;
  // A draft that never ends a step is cut at about twice the mean accepted length.
  d.draft_limit = options_.max_step_tokens;
  if (e.whole >= kTrust)
    d.draft_limit = std::min<std::int32_t>(
        d.draft_limit, std::max<std::int32_t>(kShortest, std::lround(2 * e.accepted_tokens)));
  return d;
}

}  // namespace dream_r
