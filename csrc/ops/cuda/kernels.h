#pragma once
// The launchers of csrc/ops/cuda: raw device pointers, sizes, the stream. Each starts its kernels
// and returns at once; an Error says that they could not be started. What an op means stands in
// ops.h; shapes were checked there. Plain C++, so that ops/*.cc include it.
#include <cstdint>

#include "core/cuda.h"

namespace dream_r::cuda {

// ---- norm.cu -----------------------------------------------------------------------------------
void rms_norm(const float* x, const float* w, float eps, std::int64_t rows, std::int64_t h,
              float* out, cudaStream_t stream);
void add_rms_norm(float* residual, const float* delta, const float* w, float eps, std::int64_t rows,
                  std::int64_t h, float* out, cudaStream_t stream);
void layer_norm(const float* x, const float* w, const float* b, float eps, std::int64_t rows,
                std::int64_t h, float* out, cudaStream_t stream);

}  // namespace dream_r::cuda
