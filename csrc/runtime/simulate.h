#pragma once
// A discrete-event simulator: the very same Manager on a virtual clock, with lanes that only take
// time. It answers "what speed-up would I get" before any model is loaded, and holds the manager to
// the closed forms of method, section 5. Times are in units of one step of the target, if `own` is
// left at 1.
//
// What the closed forms leave out, and the manager does: where a verdict takes longer than a
// drafted step (v > d), all drafted steps that wait are judged in one pass, from p = 0.1 on. With
// `verify_more` = 0 that is faster than p * max(d, v); the form for independent lanes is exact for
// d >= v, or for window 2.
#include <cstdint>

#include "runtime/options.h"

namespace dream_r {

enum class Devices : std::uint8_t {
  separate,  // draft, verify and the target's own step do not slow one another
  in_turn,   // one saturated device: one work at a time, in the order of their start
  beside,    // one device: draft and verify in turn at speed r_D while the target's own step runs
             // beside them at r_T; whoever is alone runs at speed 1
};

struct SimulateOptions {
  EngineOptions engine;  // method, window, race, mode, alpha; the rest is of no account
  double acceptance = 0.8;
  double draft = 0.2, verify = 0.2, own = 1;  // time of a drafted step, a verify pass, an own step
  double verify_more = 0;                     // for each further step judged in the same pass
  double prefill = 0, answer = 0;             // of the target
  double spread = 0;                          // standard deviation / mean of the times (log-normal)
  double cancel_delay = 0;                    // until a cancelled work stops
  Devices devices = Devices::separate;
  double relative_draft = 1, relative_target = 1;  // r_D, r_T; only with Devices::beside
  std::int32_t steps = 1000;                       // of reasoning; the last one is </think>
  std::int32_t step_tokens = 8;
  std::uint64_t seed = 0;
};

struct SimulateResult {
  double total = 0;      // prefill, reasoning and answer
  double reasoning = 0;  // time
  double alone = 0;      // reasoning time of the target by itself
  double per_step() const { return steps > 0 ? reasoning / steps : 0; }
  double speed_up() const { return reasoning > 0 ? alone / reasoning : 0; }
  std::int64_t steps = 0, accepted = 0, rejected = 0, target_steps = 0;
  std::int64_t drafted = 0, verified = 0, ahead_drafted = 0, ahead_verified = 0;
  std::int64_t wasted_draft_tokens = 0, wasted_target_tokens = 0;
  double draft_busy = 0, verify_busy = 0, own_busy = 0;  // time, of the total
  double overlap = 0;  // share of the total time in which two works ran at once
};

// Error (input) where an option is out of range.
SimulateResult simulate(const SimulateOptions& options);

}  // namespace dream_r
