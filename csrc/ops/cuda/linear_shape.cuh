#pragma once
// How a product is cut, the same for every kernel and every number of rows: k into slices of whole
// units, each slice's sum from zero, the slices added in order. So a row's result does not depend
// on the batch it is in, nor on which of the kernels computed it (the library's excepted).
#include <cuda_runtime.h>

#include <cstdint>

namespace dream_r::cuda {

constexpr int kTile = 32;       // output rows of a warp: two panels
constexpr int kPanelRows = 16;  // of LinearWeight
constexpr int kChunk = 32;      // of k: two steps of the tensor cores
constexpr int kUnitChunks = 4;  // a unit of k: no group of w4 is longer, and each divides it
constexpr int kWarps = 8;       // of a block
constexpr int kMostSlices = kWarps;

struct LinearShape {
  int rows = 0, n = 0, k = 0;
  int group = 0;   // w4
  int slices = 1;  // of k, a power of two

  __host__ __device__ constexpr int tiles() const { return (n + kTile - 1) / kTile; }
  __host__ __device__ constexpr int panels() const { return (n + kPanelRows - 1) / kPanelRows; }
  __host__ __device__ constexpr int chunks() const { return (k + kChunk - 1) / kChunk; }
  __host__ __device__ constexpr int units() const {
    return (chunks() + kUnitChunks - 1) / kUnitChunks;
  }
  // The first chunk of a slice; that of slice `slices` is the end of k.
  __host__ __device__ constexpr int slice_begin(int slice) const {
    const int chunk = units() * slice / slices * kUnitChunks;
    return chunk < chunks() ? chunk : chunks();
  }
};

// The slices that give about as many warps as keep a large GPU's memory busy, none below two units
// (so none is empty). Rows selected from a matrix keep its slices, so their sums too.
inline LinearShape linear_shape(std::int64_t rows, std::int64_t n, std::int64_t k,
                                std::int64_t group, std::int64_t whole_n) {
  constexpr int kManyWarps = 1024;
  LinearShape s{static_cast<int>(rows), static_cast<int>(n), static_cast<int>(k),
                static_cast<int>(group)};
  const std::int64_t tiles = (whole_n + kTile - 1) / kTile;
  while (s.slices < kMostSlices && tiles * s.slices < kManyWarps && s.units() >= 4 * s.slices)
    s.slices *= 2;
  return s;
}

}  // namespace dream_r::cuda
