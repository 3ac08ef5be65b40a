#pragma once
// Which of the two kernels multiplies; how many columns a block of the wide one has, how many
// blocks there are, and what scratch they need: rounded x, the slices' sums, counters.
#include <cuda_runtime.h>

#include <cstddef>

#include "ops/cuda/linear.h"
#include "ops/cuda/linear_shape.cuh"

namespace dream_r::cuda {

constexpr int kThinRows = 2;               // of x, in the thin kernel
constexpr int kWideRows = kWarps * kTile;  // of the output, a block's of the wide one

inline LinearShape shape_of(const LinearProblem& p) {
  return linear_shape(p.rows, p.n, p.k, p.group, p.whole_n);
}
inline LinearShape shape_of(const GroupedProblem& p) {
  return linear_shape(p.rows, p.n, p.k, p.group, p.n);
}

// Blocks below which a large GPU has idle processors, so the slices get blocks of their own.
constexpr int kFewBlocks = 132;

struct WidePlan {
  int columns = 0;  // of a block: 8, 16, 32 or 64
  int x_rows = 0;   // with the zeros that follow
  dim3 grid;
  std::size_t x_bytes = 0, partial_bytes = 0, arrivals = 0;

  std::size_t bytes() const { return x_bytes + partial_bytes + arrivals * sizeof(unsigned); }
};

inline std::size_t rounded(std::size_t bytes) { return (bytes + 255) / 256 * 256; }

// `slots` > 0: that many experts may have rows.
inline WidePlan wide_plan(const LinearShape& s, int slots) {
  WidePlan p;
  p.columns = slots ? 32 : s.rows <= 8 ? 8 : s.rows <= 16 ? 16 : s.rows <= 32 ? 32 : 64;
  const unsigned columns = slots ? slots : (s.rows + p.columns - 1) / p.columns;
  const unsigned blocks = (s.n + kWideRows - 1) / kWideRows;
  const bool apart = !slots && s.slices > 1 && blocks * columns < kFewBlocks;
  p.grid = dim3(columns, blocks, apart ? s.slices : 1);
  p.x_rows = slots ? s.rows + p.columns : static_cast<int>(columns) * p.columns;
  p.x_bytes = rounded(static_cast<std::size_t>(p.x_rows) * s.chunks() * kChunk * 2);
  if (!apart) return p;
  p.partial_bytes = rounded(sizeof(float) * s.slices * s.rows * s.n);
  p.arrivals = blocks * columns;
  return p;
}

// For one or two rows of x, or so few pairs of token and expert that an expert has a row or two.
// Whole chunks of k alone: that kernel reads x in pieces of 16 bytes.
inline bool is_thin(const LinearShape& s, bool grouped) {
  constexpr int kThinPairs = 32;
  return s.k % kChunk == 0 && s.rows <= (grouped ? kThinPairs : kThinRows);
}

}  // namespace dream_r::cuda
