// SpecReason (arXiv 2504.07891): draft a step, ask the target, and only after a "no" let it write
// the step from scratch. Strictly sequential: one step in the window, nothing beside it.
#include "runtime/policies/policies.h"

namespace dream_r {

Decision SpecReasonPolicy::decide(std::int64_t, const Estimates&, const Speeds&) const {
  return {Mode::sequential, options_.max_step_tokens};
}

}  // namespace dream_r
