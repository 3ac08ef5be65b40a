#include "runtime/script.h"

#include "core/check.h"
#include "ops/philox.h"

namespace dream_r {

namespace {

// Two independent numbers in [0, 1): of the verdict and of the length.
struct Draw {
  double verdict, length;
};

Draw draw(const Script& script, const RequestSpec& request, std::int32_t step) {
  const std::uint64_t key = request.seed * 0x9e3779b97f4a7c15u + script.seed;
  const auto low = [](std::uint64_t x) { return static_cast<std::uint32_t>(x); };
  const auto r = ops::philox4x32(
      {static_cast<std::uint32_t>(step), low(request.index), low(request.index >> 32), 0},
      {low(key), low(key >> 32)});
  return {r[0] * 0x1p-32, r[1] * 0x1p-32};
}

}  // namespace

void Script::check(std::int32_t most) const {
  DR_CHECK(acceptance >= 0 && acceptance <= 1) << "acceptance " << acceptance;
  DR_CHECK(step_min >= 1 && step_min <= step_max && step_max <= 2 * step_min && step_max <= most)
      << "steps of " << step_min << " to " << step_max << " tokens: at least 1, at most " << most
      << ", the longest at most twice the shortest";
}

bool accepts(const Script& script, const RequestSpec& request, std::int32_t step) {
  return draw(script, request, step).verdict < script.acceptance;
}

std::int32_t step_tokens(const Script& script, const RequestSpec& request, std::int32_t step) {
  const std::int32_t lengths = script.step_max - script.step_min + 1;
  return script.step_min + static_cast<std::int32_t>(draw(script, request, step).length * lengths);
}

}  // namespace dream_r
