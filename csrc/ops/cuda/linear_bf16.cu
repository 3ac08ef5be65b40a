// Products with bf16 weights, for any number of rows.
#include "ops/cuda/linear_launch.cuh"

namespace dream_r::cuda {

void linear_bf16(const LinearProblem& p, void* scratch, cudaStream_t stream) {
  run_linear<PairFormat<__nv_bfloat16>>(p, scratch, stream);
}
void grouped_linear_bf16(const GroupedProblem& p, void* scratch, cudaStream_t stream) {
  run_grouped<PairFormat<__nv_bfloat16>>(p, scratch, stream);
}

}  // namespace dream_r::cuda
