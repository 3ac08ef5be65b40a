#pragma once
// Which weight a block multiplies, and which rows of x: those of one weight, or those that chose
// the expert (ops::grouped_linear). Passed by value, so that a launch needs no table in device
// memory.
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>

#include "ops/cuda/launch.cuh"
#include "ops/cuda/linear.h"

namespace dream_r::cuda {

struct Task {
  const void* weight = nullptr;
  int begin = 0, end = 0;  // rows of x and out

  __device__ bool empty() const { return begin >= end; }
};

struct OneWeight {
  const void* weight;
  int rows;

  // The rows of the block's column tile.
  __device__ Task task(int tile, int columns) const {
    const int begin = tile * columns;
    return {weight, begin, min(begin + columns, rows)};
  }
};

struct Experts {
  const void* weight[kMostExperts];
  const std::int32_t* begin;
  int count;

  // All rows of the `slot`-th expert that has any. Every lane of a warp calls it.
  __device__ Task task(int slot, int /*columns*/) const {
    follow();  // `begin` is a result
    const int lane = threadIdx.x % 32;
    for (int first = 0; first < count; first += 32) {
      const int e = first + lane;
      unsigned busy = __ballot_sync(0xffffffffu, e < count && begin[e] < begin[e + 1]);
      const int many = __popc(busy);
      if (slot >= many) {
        slot -= many;
        continue;
      }
      for (; slot > 0; --slot) busy &= busy - 1;
      const int expert = first + __ffs(busy) - 1;
      return {weight[expert], begin[expert], begin[expert + 1]};
    }
    return {};
  }
};

inline Experts experts_of(const GroupedProblem& p) {
  Experts e{};
  std::copy(p.weights, p.weights + p.experts, e.weight);
  e.begin = p.begin;
  e.count = static_cast<int>(p.experts);
  return e;
}

}  // namespace dream_r::cuda
