#pragma once
// The products of csrc/ops/cuda/linear_*.cu. Weights lie in the panels of LinearWeight, as on the
// CPU. x, out: f32, rows 16-byte aligned where k (n) is a multiple of 4. bf16 and w4 round x to
// bf16, f16 to f16 within its finite range; sums are f32. `scratch`: 256-byte aligned, of as many
// bytes as linear_scratch_bytes() says for the problem, free again once the stream has passed.
#include <cstddef>
#include <cstdint>

#include "core/cuda.h"
#include "core/dtype.h"

namespace dream_r::cuda {

struct LinearProblem {
  const float* x;
  const void* weight;
  const float* bias;  // or null
  float* out;
  std::int64_t rows, n, k;
  std::int64_t group;    // w4
  std::int64_t whole_n;  // LinearWeight::whole_n()
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
void linear_f16(const LinearProblem& p, void* scratch, cudaStream_t stream);
void linear_w4(const LinearProblem& p, void* scratch, cudaStream_t stream);
void grouped_linear_f32(const GroupedProblem& p, cudaStream_t stream);
void grouped_linear_bf16(const GroupedProblem& p, void* scratch, cudaStream_t stream);
void grouped_linear_f16(const GroupedProblem& p, void* scratch, cudaStream_t stream);
void grouped_linear_w4(const GroupedProblem& p, void* scratch, cudaStream_t stream);

std::size_t linear_scratch_bytes(const LinearProblem& p);
std::size_t grouped_scratch_bytes(const GroupedProblem& p);

// Many rows with bf16, f16 or w4 weights, by cuBLASLt. `type`: what its factors are, f16 for f16
// weights, else bf16. True where it is found and the sizes suit it.
bool library_takes(const LinearProblem& p);
std::size_t library_scratch_bytes(const LinearProblem& p);
void linear_library(const LinearProblem& p, DType type, void* scratch, cudaStream_t stream);
// For it: rows [first, first + count) of a weight as `type` [count, k] (f16 of an f16 weight, bf16
// of the others), and x as `type` [rows, k]; k % 8 == 0.
void unpack_rows(const LinearProblem& p, std::int64_t first, std::int64_t count, void* to,
                 cudaStream_t stream);
void round_rows(const LinearProblem& p, DType type, void* to, cudaStream_t stream);

// to[j] = row ids[j] of a packed weight of any format, `steps` lines of 16 words a panel; the rows
// that fill the last panel are zeros. `ids`: on the device.
void select_rows(const void* packed, std::int64_t steps, const std::int32_t* ids,
                 std::int64_t count, void* to, cudaStream_t stream);

}  // namespace dream_r::cuda
