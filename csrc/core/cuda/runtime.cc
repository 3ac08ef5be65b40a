#include <cuda_runtime_api.h>

#include "core/check.h"

namespace dream_r::cuda {

void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) [[likely]]
    return;
  cudaGetLastError();  // the next call is not to report it again
  const auto text = cudaGetErrorString(status);
  if (status == cudaErrorMemoryAllocation) DR_FAIL(memory) << "CUDA: " << what << ": " << text;
  DR_FAIL(state) << "CUDA: " << what << ": " << text;
}

}  // namespace dream_r::cuda
