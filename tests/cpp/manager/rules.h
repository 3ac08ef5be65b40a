#pragma once
// What the reference asks of one step, without any state: is it accepted, may it be judged at all.
#include <cmath>

#include "runtime/options.h"
#include "runtime/vocabulary.h"
#include "runtime/work.h"

namespace dream_r::test {

using Tokens = std::vector<std::int32_t>;
inline std::int32_t size(const Tokens& t) { return static_cast<std::int32_t>(t.size()); }
inline void append(Tokens& t, const Tokens& more) { t.insert(t.end(), more.begin(), more.end()); }

inline bool accepts(const EngineOptions& o, const Judgement& j) {
  if (!std::isfinite(j.rho) || (o.min_mass > 0 && !(j.mass >= o.min_mass))) return false;
  return o.judge == Judge::cpn ? j.rho > o.alpha : j.rho >= o.digit_threshold;
}

// A drafted step that is rejected without a pass; `most`: a longer one is cut as any step is.
inline bool hopeless(const Work& w, const Vocabulary& v, const Tokens& before, std::int32_t most) {
  const bool capped = w.end == StepEnd::limit && w.limit < most;
  return capped || w.end == StepEnd::eos || is_blank(v, w.tokens) || w.tokens == before;
}

// Whether the target could have written this translation of a step that ended by `end`.
inline bool is_step(const Vocabulary& v, const Tokens& t, StepEnd end) {
  for (std::int32_t i = 0; i < size(t); ++i) {
    const bool ends = end == StepEnd::think_end && i + 1 == size(t);
    if (v.is_eos(t[i]) || t[i] == v.suppressed.at(0) || (t[i] == v.think_end) != ends) return false;
  }
  return !t.empty();
}

}  // namespace dream_r::test
