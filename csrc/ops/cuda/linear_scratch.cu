// How much scratch a product needs; known without a device.
#include "ops/cuda/linear_plan.cuh"

namespace dream_r::cuda {

std::size_t linear_scratch_bytes(const LinearProblem& p) {
  const LinearShape s = shape_of(p);
  return is_thin(s, false) ? 0 : wide_plan(s, 0).bytes();
}

std::size_t grouped_scratch_bytes(const GroupedProblem& p) {
  const LinearShape s = shape_of(p);
  return is_thin(s, true) ? 0 : wide_plan(s, 1).bytes();
}

}  // namespace dream_r::cuda
