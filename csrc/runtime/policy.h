#pragma once
// What the method in force wants for a step: draft it or not, and does the target write beside it.
// Pure: decided from the history it is given, never from a clock.
#include <cstdint>
#include <memory>
#include <vector>

#include "runtime/options.h"

namespace dream_r {

// What is known of one committed step.
struct StepFact {
  bool drafted = false;  // a verdict was asked for
  bool accepted = false;
  std::int32_t tokens = 0;
  bool whole = true;  // it ended by itself, not at a limit
};

// Running estimates of acceptance and of step length, engine-wide (race first) or replayed from one
// request's own steps (race verdict: then nothing but its own history decides).
struct Estimates {
  double acceptance = 0.8;  // moving average over verdicts
  // Mean length of accepted steps (of all steps while none is accepted). Steps cut at a limit do
  // not count, else a cap would feed on itself.
  double accepted_tokens = 0;
  std::int64_t steps = 0, verdicts = 0;
  std::int64_t whole = 0, whole_accepted = 0;  // steps behind the mean
  void add(const StepFact& fact);

 private:
  double accepted_sum_ = 0, all_sum_ = 0;
};

struct Decision {
  Mode mode = Mode::hedged;
  std::int32_t draft_limit = 256;  // most tokens of the drafted step
  // Drafted steps judged in one pass: all that wait, or one at a time, and then no more than one is
  // drafted ahead. It moves work in time and never changes what is committed.
  bool one_a_pass = false;
};

class Policy {
 public:
  virtual ~Policy() = default;
  // `step` counts as `estimates` do: of all the steps they know, those ahead of the last commit
  // too.
  virtual Decision decide(std::int64_t step, const Estimates& estimates,
                          const Speeds& speeds) const = 0;
  virtual int window() const = 0;
};

std::unique_ptr<Policy> make_policy(const EngineOptions& options);

}  // namespace dream_r
