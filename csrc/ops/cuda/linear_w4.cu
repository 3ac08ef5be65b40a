// Products with w4 weights, for any number of rows.
#include "ops/cuda/linear_launch.cuh"

namespace dream_r::cuda {

void linear_w4(const LinearProblem& p, void* scratch, cudaStream_t stream) {
  run_linear<W4Format>(p, scratch, stream);
}
void grouped_linear_w4(const GroupedProblem& p, void* scratch, cudaStream_t stream) {
  run_grouped<W4Format>(p, scratch, stream);
}

}  // namespace dream_r::cuda
