#pragma once
// For measuring alone: verdicts and lengths of steps laid down in advance, so that whole requests
// of models with random weights run at an acceptance of choice and every method writes the same
// number of tokens. All else is real: forwards, lanes, caches, verification passes.
#include <cstdint>

#include "runtime/request.h"

namespace dream_r {

struct Script {
  double acceptance = 0.8;                    // chance of a drafted step
  std::int32_t step_min = 12, step_max = 20;  // tokens of a step
  std::uint64_t seed = 0;

  // Error (input) unless 0 <= acceptance <= 1, 1 <= step_min <= step_max <= most and step_max <= 2
  // * step_min: drafts are cut at twice the mean of what was accepted.
  void check(std::int32_t most) const;
};

// Both depend on the script's seed, the request's (seed, index) and the number of the step alone:
// never on the method, on a clock or on how often the step was drafted.
bool accepts(const Script& script, const RequestSpec& request, std::int32_t step);
std::int32_t step_tokens(const Script& script, const RequestSpec& request, std::int32_t step);

}  // namespace dream_r
