// How much scratch a product needs; known without a device.
#include "ops/cuda/linear.h"
#include "ops/cuda/linear_plan.cuh"

namespace dream_r::cuda {

std::size_t linear_scratch_bytes(std::int64_t rows, std::int64_t n, std::int64_t k) {
  const LinearShape s = linear_shape(rows, n, k, 0);
  return is_thin(s, false) ? 0 : wide_plan(s, 0).bytes();
}

std::size_t grouped_scratch_bytes(std::int64_t rows, std::int64_t n, std::int64_t k) {
  const LinearShape s = linear_shape(rows, n, k, 0);
  return is_thin(s, true) ? 0 : wide_plan(s, 1).bytes();
}

}  // namespace dream_r::cuda
