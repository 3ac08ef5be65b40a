#include "runtime/policies/policies.h"

namespace dream_r {

Decision ArPolicy::decide(std::int64_t, const Estimates&, const Speeds&) const {
  return {Mode::off, 0};
}

}  // namespace dream_r
