#pragma once
// One or two rows of x: bound by reading the weights, so the kernel is a queue of loads. A block's
// warps share out the slices of k first, and what is left of them the tiles of 32 output rows; none
// waits for another before the end, where the slices' sums meet in shared memory and are added in
// order. Each warp rounds the piece of x it needs on its way (f32, 4 bytes for 17 of w4 weights and
// for 64 of bf16), so no kernel runs before this one. What does not depend on the kernel in front,
// the first weights, is asked for before that one has ended.
#include <cstdint>

#include "ops/cuda/launch.cuh"
#include "ops/cuda/linear_plan.cuh"
#include "ops/cuda/linear_source.cuh"
#include "ops/cuda/linear_weights.cuh"

namespace dream_r::cuda {

constexpr int kThinStages = 3;  // in the queue, one of them being consumed

// A warp's stage in shared memory.
template <class Format>
struct ThinStage {
  static constexpr int kFloats = Format::kStageChunks * kChunk;  // of a row of x
  uint4 pieces[kStagePieces * 32];
  uint4 heads[Format::kHeadPieces ? Format::kHeadPieces : 1];
  float x[kThinRows][kFloats];

  // The rows [begin, begin + count) of x. Past the end of k it is zeros.
  __device__ void fetch_x(const float* from, int begin, int count, int stage, int k, int lane) {
    constexpr int kPieces = kFloats / 4;
    for (int i = lane; i < count * kPieces; i += 32) {
      const int row = i / kPieces, at = i % kPieces * 4, column = stage * kFloats + at;
      const bool there = column < k;
      cp_async_16(&x[row][at], from + std::int64_t{begin + row} * k + (there ? column : 0),
                  there ? 16 : 0);
    }
  }
  // The lane's eight elements of a chunk, as operand B; columns beyond `count` are zeros.
  __device__ uint4 operand(int chunk, Lane lane, int count) const {
    if (lane.g >= count) return {0, 0, 0, 0};
    const auto* from = reinterpret_cast<const float4*>(x[lane.g] + chunk * kChunk + 8 * lane.t);
    return Format::pack(from[0], from[1]);
  }
};

template <class Format>
constexpr int kThinBytes = kWarps * kThinStages * static_cast<int>(sizeof(ThinStage<Format>));

// The warp's slice of its tile against `count` rows from `begin`.
template <class Format>
__device__ inline void thin_slice(const typename Format::Reader& weights, const float* x, int begin,
                                  int count, const LinearShape& shape, int first, int last,
                                  ThinStage<Format>* stages,
                                  typename Format::template Sum<1>& sum) {
  const int lane = threadIdx.x % 32;
  const auto fetch_weights = [&](int stage) {
    ThinStage<Format>& to = stages[(stage - first) % kThinStages];
    if (stage < last) weights.fetch(stage, to.pieces + lane, to.heads);
  };
  const auto fetch_x = [&](int stage) {
    if (stage < last)
      stages[(stage - first) % kThinStages].fetch_x(x, begin, count, stage, shape.k, lane);
    cp_async_commit();
  };
  __syncwarp();  // the stages may still be read for the rows before
  for (int i = 0; i < kThinStages - 1; ++i) fetch_weights(first + i);
  follow();
  for (int i = 0; i < kThinStages - 1; ++i) fetch_x(first + i);
  sum.begin();
  for (int stage = first; stage < last; ++stage) {
    cp_async_wait<kThinStages - 2>();
    __syncwarp();  // other lanes' pieces of x are there, and the stage before is read
    fetch_weights(stage + kThinStages - 1);
    fetch_x(stage + kThinStages - 1);
    const ThinStage<Format>& at = stages[(stage - first) % kThinStages];
    sum.add(stage, at.pieces + lane, at.heads, Lane(),
            [&](int chunk, int) { return at.operand(chunk, Lane(), count); });
  }
  cp_async_wait<0>();
}

// partial[warp][column][32] <- the warp's sums.
template <class Sum>
__device__ inline void thin_store(const Sum& sum, float* partial) {
  const Lane lane;
#pragma unroll
  for (int e = 0; e < 2; ++e) {
    const int column = 2 * lane.t + e;
    if (column >= kThinRows) continue;
    const auto& v = sum.total;
    *reinterpret_cast<float4*>(partial + column * kTile + 4 * lane.g) = {
        v[0][0][e], v[0][0][2 + e], v[1][0][e], v[1][0][2 + e]};
  }
}

template <class Format, class Source>
__global__ void __launch_bounds__(kWarps * 32, 2)
    linear_thin(const __grid_constant__ Source source, const LinearShape shape, const float* x,
                const float* bias, float* out) {
  DR_DYNAMIC_SHARED(ThinStage<Format>, stages);
  __shared__ float partial[kWarps][kThinRows * kTile];
  const Task task = source.task(blockIdx.y, kThinRows);
  if (task.empty()) return;
  const int warp = threadIdx.x / 32, slices = shape.slices, tiles = kWarps / slices;
  const int slice = warp % slices, tile = blockIdx.x * tiles + warp / slices;
  const auto stage_of = [&](int chunk) {
    return (chunk + Format::kStageChunks - 1) / Format::kStageChunks;
  };
  const int first = stage_of(shape.slice_begin(slice));
  const int last = tile < shape.tiles() ? stage_of(shape.slice_begin(slice + 1)) : first;
  const typename Format::Reader weights(task.weight, tile, shape, Lane());
  typename Format::template Sum<1> sum(shape);
  for (int begin = task.begin; begin < task.end; begin += kThinRows) {
    const int count = min(kThinRows, task.end - begin);
    thin_slice<Format>(weights, x, begin, count, shape, first, last, stages + warp * kThinStages,
                       sum);
    thin_store(sum, partial[warp]);
    __syncthreads();
    for (int i = threadIdx.x; i < count * tiles * kTile; i += kWarps * 32) {
      const int row = i / (tiles * kTile), at = i % (tiles * kTile);
      const int j = blockIdx.x * tiles * kTile + at;
      if (j >= shape.n) continue;
      const float* part = partial[at / kTile * slices] + row * kTile + at % kTile;
      float v = *part;
      for (int s = 1; s < slices; ++s) v += part[s * kThinRows * kTile];
      out[std::int64_t{begin + row} * shape.n + j] = bias ? v + bias[j] : v;
    }
    __syncthreads();
  }
}

}  // namespace dream_r::cuda
