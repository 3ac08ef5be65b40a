#pragma once
// Start-up measurement of d, v, r_D and r_T (method, section 5) on this machine, with these models.
#include "model/model.h"
#include "runtime/options.h"

namespace dream_r {

// r_D is the speed of a drafted and judged step while the target writes its own step beside it, r_T
// how fast that own step then grows, each against running alone: hedging pays iff r_D + (1 - p) r_T
// > 1. In inline mode nothing runs side by side and nothing is timed: the nominal ratios of weight
// bytes. With race "verdict" d and v are nominal too, so that no clock decides what is committed.
// `question`: tokens of the scoring question.
Speeds calibrate(const Model& target, const Model& draft, int question,
                 const EngineOptions& options);

}  // namespace dream_r
