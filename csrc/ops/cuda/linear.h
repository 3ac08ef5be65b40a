#pragma once
// The products of csrc/ops/cuda/linear_*.cu. Weights lie in the panels of LinearWeight, as on the
// CPU. x, out: f32, rows 16-byte aligned where k (n) is a multiple of 4. bf16 and w4 round x to
// bf16; sums are f32. `scratch`: 256-byte aligned, of as many bytes as linear_scratch_bytes() says
// for the problem, free again once the stream has passed.
#include <cstddef>
#include <cstdint>

struct CUstream_st;
typedef CUstream_st* cudaStream_t;

namespace dream_r::cuda {

struct LinearProblem {
  const float* x;
  const void* weight;
  const float* bias;  // or null
  float* out;
  std::int64_t rows, n, k;
  std::int64_t group;  // w4
};

// Rows [begin[e], begin[e + 1]) of x and out belong to weights[e]. `weights` is read before the
// call returns; `begin` lies on the device.
constexpr int kMostExperts = 256;
struct GroupedProblem {
  const float* x;
  const void* const* weights;
  const std::int32_t* begin;  // i32 [experts + 1], begin[experts] == rows
  float* out;
  std::int64_t experts, rows, n, k;
  std::int64_t group;
};

void linear_f32(const LinearProblem& p, cudaStream_t stream);
void linear_bf16(const LinearProblem& p, void* scratch, cudaStream_t stream);
void linear_w4(const LinearProblem& p, void* scratch, cudaStream_t stream);
void grouped_linear_bf16(const GroupedProblem& p, void* scratch, cudaStream_t stream);
void grouped_linear_w4(const GroupedProblem& p, void* scratch, cudaStream_t stream);

std::size_t linear_scratch_bytes(std::int64_t rows, std::int64_t n, std::int64_t k);
std::size_t grouped_scratch_bytes(std::int64_t rows, std::int64_t n, std::int64_t k);

}  // namespace dream_r::cuda
