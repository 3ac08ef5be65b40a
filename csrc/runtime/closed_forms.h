#pragma once
// Expected time of a reasoning step in units of the target's own (method, section 5), at acceptance
// p and the measured speeds of the lanes.
#include <algorithm>

#include "runtime/options.h"

namespace dream_r {

// Draft, then verify, and only after a "no" the target writes what it does not agree with.
inline double step_in_turn(double p, const Speeds& s) {
  return s.draft + s.verify + (1 - p) * s.rewrite;
}

// One device: the target writes its own step beside drafting and verifying, all of them slowed.
inline double step_beside(double p, const Speeds& s) {
  const double verdict = (s.draft + s.verify) / s.relative_draft;
  return verdict + (1 - p) * std::max(0.0, 1 - s.relative_target * verdict);
}

}  // namespace dream_r
