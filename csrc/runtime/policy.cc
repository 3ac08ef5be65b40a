#include "runtime/policy.h"

#include "core/check.h"
#include "runtime/policies/policies.h"

namespace dream_r {

void Estimates::add(const StepFact& fact) {
  ++steps;
  if (fact.drafted) {
    constexpr double kWeight = 1.0 / 16;  // follows a change within a few dozen verdicts
    ++verdicts;
    acceptance += kWeight * ((fact.accepted ? 1.0 : 0.0) - acceptance);
  }
  if (!fact.whole) return;
  ++whole, all_sum_ += fact.tokens;
  if (fact.accepted) ++whole_accepted, accepted_sum_ += fact.tokens;
  accepted_tokens = whole_accepted > 0 ? accepted_sum_ / static_cast<double>(whole_accepted)
                                       : all_sum_ / static_cast<double>(whole);
}

std::unique_ptr<Policy> make_policy(const EngineOptions& options) {
  switch (options.method) {
    case Method::ar:
      return std::make_unique<ArPolicy>();
    case Method::specreason:
      return std::make_unique<SpecReasonPolicy>(options);
    case Method::fpsr:
      return std::make_unique<FpsrPolicy>(options);
  }
  DR_FAIL(input) << "unknown method";
}

}  // namespace dream_r
