#pragma once
#include "runtime/policy.h"

namespace dream_r {

// The target alone.
class ArPolicy : public Policy {
 public:
  Decision decide(std::int64_t, const Estimates&, const Speeds&) const override;
  int window() const override { return 0; }
};

class SpecReasonPolicy : public Policy {
 public:
  explicit SpecReasonPolicy(const EngineOptions& options) : options_(options) {}
  Decision decide(std::int64_t, const Estimates&, const Speeds&) const override;
  int window() const override { return 1; }

 private:
  EngineOptions options_;
};

class FpsrPolicy : public Policy {
 public:
  explicit FpsrPolicy(const EngineOptions& options) : options_(options) {}
  Decision decide(std::int64_t, const Estimates&, const Speeds&) const override;
  int window() const override { return options_.window; }

 private:
  EngineOptions options_;
};

}  // namespace dream_r
