#pragma once
// The check that both ways of sampling share.
#include "core/check.h"
#include "ops/ops.h"

namespace dream_r::ops {

inline void check_sampling(const char* op, const SamplingParams& p) {
  DR_CHECK(p.temperature >= 0 && p.repetition_penalty > 0 && p.top_k >= 0 && p.min_p >= 0 &&
           p.min_p <= 1 && p.top_p >= 0)
      << op << ": temperature " << p.temperature << ", top_k " << p.top_k << ", top_p " << p.top_p
      << ", min_p " << p.min_p << ", repetition_penalty " << p.repetition_penalty;
}

}  // namespace dream_r::ops
