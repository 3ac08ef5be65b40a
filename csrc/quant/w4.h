#pragma once
// INT4 linears: W[n][k] = (q - z) * s with q, z in 0..15 and one z and s for every `group` elements
// of a row. Two layouts of checkpoints become the one that the kernels read (linear_weight.h).
#include <cstdint>
#include <span>
#include <string>

#include "core/stream.h"
#include "ops/linear_weight.h"

namespace dream_r::quant {

// Words are i32 of eight nibbles, nibble i in bits 4i..4i+3; scales are f32, bf16 or f16.
enum class W4Layout : std::uint8_t {
  // AutoAWQ "gemm": words [k, n/8], nibble i of column c is output 8c + {0,2,4,6,1,3,5,7}[i];
  // zeros [k/group, n/8] packed alike; scales [k/group, n].
  awq_gemm,
  // compressed-tensors "pack-quantized": words [n, k/8] in order along k; zeros [ceil(n/8),
  // k/group] packed along n, undefined when symmetric (z = 8); scales [n, k/group].
  pack_quantized,
};

struct W4Matrix {
  std::string name;  // of the scales, for errors
  W4Layout layout = W4Layout::awq_gemm;
  std::int64_t n = 0, k = 0, group = 0;
  Tensor words, scales, zeros;
};

// Error unless the group size is one that the kernels know and divides k.
void check_group(const std::string& name, std::int64_t k, std::int64_t group);

// Rows of several matrices of one k and group stacked, each with its own scales and zeros. Scales
// are kept exactly; one that is not finite, or an f32 one with more than 20 significant bits, is an
// Error.
LinearWeight pack_w4(Stream& stream, std::span<const W4Matrix> sources);

}  // namespace dream_r::quant
