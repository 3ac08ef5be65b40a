// Products with f16 weights, for any number of rows.
#include "ops/cuda/linear_launch.cuh"

namespace dream_r::cuda {

void linear_f16(const LinearProblem& p, void* scratch, cudaStream_t stream) {
  run_linear<PairFormat<__half>>(p, scratch, stream);
}
void grouped_linear_f16(const GroupedProblem& p, void* scratch, cudaStream_t stream) {
  run_grouped<PairFormat<__half>>(p, scratch, stream);
}

}  // namespace dream_r::cuda
