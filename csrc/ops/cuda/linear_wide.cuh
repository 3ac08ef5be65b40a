#pragma once
// Three rows of x and more: a block of eight warps has 256 output rows (32 a warp) and 8, 16, 32 or
// 64 rows of x, and walks along k in stages that cp.async fills three deep. Weights go from memory
// to the lane that multiplies them; x, rounded and put in the order of operand B by linear_pack, is
// shared by the warps. Where the blocks are too few for the GPU every slice of k gets a block of
// its own, and the last of them to finish adds up what all have left in scratch: in the slices'
// order, so the result does not depend on which one was last. Otherwise a block takes the slices in
// turn and adds them up in `out`.
#include <cstdint>

#include "ops/cuda/launch.cuh"
#include "ops/cuda/linear_plan.cuh"
#include "ops/cuda/linear_source.cuh"
#include "ops/cuda/linear_weights.cuh"

namespace dream_r::cuda {

constexpr int kWideStages = 3;

struct WideScratch {
  // bf16 [chunks][x_rows][32], the order inside 32 being that of the operand: linear_pack's result.
  // x_rows: those of x and zeros up to the end of every column tile.
  uint4* x;
  int x_rows;
  float* partial;      // [slices][rows][n], where slices have blocks of their own
  unsigned* arrivals;  // [blocks of output rows][column tiles], zero
};

template <class Format>
__global__ void linear_pack(const float* x, const LinearShape shape, const WideScratch to,
                            int arrivals) {
  follow();
  const auto i = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i < arrivals) to.arrivals[i] = 0;
  const std::int64_t row = i / 4 % to.x_rows;
  const auto chunk = static_cast<int>(i / 4 / to.x_rows),
             k = chunk * kChunk + static_cast<int>(i % 4) * 8;
  if (chunk >= shape.chunks()) return;
  float v[8] = {};
  if (row < shape.rows)
    for (int j = 0; j < 8 && k + j < shape.k; ++j) v[j] = x[row * shape.k + k + j];
  to.x[i] = Format::pack({v[0], v[1], v[2], v[3]}, {v[4], v[5], v[6], v[7]});
}

// The block's queue in dynamic shared memory: of every stage x, then each warp's pieces and heads.
template <class Format, int kColumnTiles>
struct WideStages {
  static constexpr int kX = Format::kStageChunks * kColumnTiles * 32;
  uint4* base;
  int heads;  // pieces a warp

  __host__ __device__ static constexpr int pieces(int heads) {
    return kX + kWarps * (kStagePieces * 32 + heads);
  }
  __device__ uint4* x(int slot) const { return base + slot * pieces(heads); }
  __device__ uint4* weights(int slot) const {
    return x(slot) + kX + threadIdx.x / 32 * (kStagePieces * 32 + heads);
  }
};

template <class Format, int kColumnTiles>
constexpr int wide_bytes(int group) {
  return kWideStages * WideStages<Format, kColumnTiles>::pieces(Format::head_pieces(group)) * 16;
}

// Four neighbours of a row of the output: `v` and, where wanted, what is there already and the
// bias.
__device__ inline void put_four(float* row, int j, int n, float4 v, bool add, const float* bias) {
  float4* const to = reinterpret_cast<float4*>(row + j);
  if (n % 4 == 0) {
    if (j >= n) return;
    if (add) v = {to->x + v.x, to->y + v.y, to->z + v.z, to->w + v.w};
    if (bias) v = {v.x + bias[j], v.y + bias[j + 1], v.z + bias[j + 2], v.w + bias[j + 3]};
    *to = v;
    return;
  }
  const float each[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (j + i >= n) return;
    const float sum = add ? row[j + i] + each[i] : each[i];
    row[j + i] = bias ? sum + bias[j + i] : sum;
  }
}

// to[row][j] <- the warp's sums, for the rows [begin, end).
template <int kColumnTiles>
__device__ inline void put_sums(const float (&v)[2][kColumnTiles][4], int tile, int begin, int end,
                                int n, float* to, bool add, const float* bias) {
  const Lane lane;
#pragma unroll
  for (int c = 0; c < kColumnTiles; ++c)
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const int row = begin + 8 * c + 2 * lane.t + e;
      if (row < end)
        put_four(to + std::int64_t{row} * n, tile * kTile + 4 * lane.g, n,
                 {v[0][c][e], v[0][c][2 + e], v[1][c][e], v[1][c][2 + e]}, add, bias);
    }
}

// The slices' sums are in scratch when the last of their blocks gets here: that one adds them up.
__device__ inline void add_slices(const LinearShape& s, const WideScratch& scratch,
                                  const Task& task, const float* bias, float* out) {
  __shared__ bool last;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    unsigned* const arrived = scratch.arrivals + blockIdx.y * gridDim.x + blockIdx.x;
    last = atomicAdd(arrived, 1u) == static_cast<unsigned>(s.slices - 1);
  }
  __syncthreads();
  if (!last) return;
  __threadfence();
  const int j = blockIdx.y * kWideRows + threadIdx.x;
  if (j >= s.n) return;
  const std::int64_t step = std::int64_t{s.rows} * s.n;
  const volatile float* partial = scratch.partial;  // others wrote it: not from the nearest cache
  for (int row = task.begin; row < task.end; ++row) {
    const std::int64_t at = std::int64_t{row} * s.n + j;
    float v = partial[at];
    for (int slice = 1; slice < s.slices; ++slice) v += partial[slice * step + at];
    out[at] = bias ? v + bias[j] : v;
  }
}

template <class Format, int kColumnTiles>
class WideBlock {
 public:
  using Stages = WideStages<Format, kColumnTiles>;

  __device__ WideBlock(const LinearShape& shape, const WideScratch& scratch, uint4* shared)
      : shape_(shape),
        x_(scratch.x),
        x_rows_(scratch.x_rows),
        stages_{shared, Format::head_pieces(shape.group)} {}

  // Slices [from, to) of the columns that begin at row `begin` of x; put(slice, sums) after each.
  template <class Put>
  __device__ void run(const typename Format::Reader& weights, int begin, int from, int to,
                      Put&& put) {
    int stage = stage_of(shape_.slice_begin(from)), slot = 0;
    const int last = stage_of(shape_.slice_begin(to));
    __syncthreads();  // the stages may still be read for the columns before
    for (int i = 0; i < kWideStages - 1; ++i)
      if (stage + i < last) fetch_weights(weights, stage + i, i);
    follow();
    for (int i = 0; i < kWideStages - 1; ++i) fetch_x(begin, stage + i, i, last);
    typename Format::template Sum<kColumnTiles> sum(shape_);
    for (int slice = from; slice < to; ++slice) {
      sum.begin();
      for (const int end = stage_of(shape_.slice_begin(slice + 1)); stage < end; ++stage) {
        cp_async_wait<kWideStages - 2>();
        __syncthreads();  // every thread's part of the stage is there, the one before is read
        const int free = slot == 0 ? kWideStages - 1 : slot - 1;
        if (stage + kWideStages - 1 < last) fetch_weights(weights, stage + kWideStages - 1, free);
        fetch_x(begin, stage + kWideStages - 1, free, last);
        multiply_stage(stage, slot, sum);
        slot = slot == kWideStages - 1 ? 0 : slot + 1;
      }
      put(slice, sum.total);
    }
    cp_async_wait<0>();
  }

 private:
  __device__ static int stage_of(int chunk) {
    return (chunk + Format::kStageChunks - 1) / Format::kStageChunks;
  }
  __device__ void fetch_weights(const typename Format::Reader& weights, int stage, int slot) const {
    uint4* const to = stages_.weights(slot);
    weights.fetch(stage, to + threadIdx.x % 32, to + kStagePieces * 32);
  }
  // The stage's part of x: 32 pieces a chunk and column tile, in a row where they lie.
  __device__ void fetch_x(int begin, int stage, int slot, int last) const {
    constexpr int kPieces = 32 * kColumnTiles, kThreads = kWarps * 32;
    if (stage < last) {
      const int chunk = stage * Format::kStageChunks + threadIdx.x / kPieces;
      const uint4* from = x_ + ((chunk * x_rows_ + begin) * 4 + threadIdx.x % kPieces);
      uint4* const to = stages_.x(slot) + threadIdx.x;
#pragma unroll
      for (int i = 0; i * kThreads < Stages::kX; ++i) {
        if (Stages::kX < kThreads && threadIdx.x >= Stages::kX) break;
        if (chunk + i * (kThreads / kPieces) < shape_.chunks())
          cp_async_16(to + i * kThreads, from);
        from += kThreads / kPieces * 4 * x_rows_;
      }
    }
    cp_async_commit();
  }
  __device__ void multiply_stage(int stage, int slot,
                                 typename Format::template Sum<kColumnTiles>& sum) const {
    const uint4* const pieces = stages_.weights(slot);
    const uint4* const x = stages_.x(slot) + threadIdx.x % 32;
    sum.add(stage, pieces + threadIdx.x % 32, pieces + kStagePieces * 32, Lane(),
            [&](int chunk, int tile) { return x[(chunk * kColumnTiles + tile) * 32]; });
  }

  const LinearShape shape_;
  const uint4* x_;
  int x_rows_;
  Stages stages_;
};

// Blocks that a processor is to hold at once. Before sm_90 a bf16 subtraction takes a constant in a
// register, one too many for two of 32 columns; one keeps that memory busy as well.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
constexpr int wide_blocks(int column_tiles) { return column_tiles > 2 ? 1 : 2; }
#else
constexpr int wide_blocks(int column_tiles) { return column_tiles > 4 ? 1 : 2; }
#endif

// Grid: column tiles (or experts), blocks of output rows, slices (or one that takes them all).
template <class Format, int kColumnTiles, class Source>
__global__ void __launch_bounds__(kWarps * 32, wide_blocks(kColumnTiles))
    linear_wide(const __grid_constant__ Source source, const LinearShape shape,
                const WideScratch scratch, const float* bias, float* out) {
  DR_DYNAMIC_SHARED(uint4, shared);
  constexpr int kColumns = 8 * kColumnTiles;
  const Task task = source.task(blockIdx.x, kColumns);
  if (task.empty()) return;
  const bool apart = gridDim.z > 1;
  const int tile = blockIdx.y * kWarps + threadIdx.x / 32;
  const int from = apart ? blockIdx.z : 0, to = apart ? from + 1 : shape.slices;
  const typename Format::Reader weights(task.weight, tile, shape, Lane());
  WideBlock<Format, kColumnTiles> block(shape, scratch, shared);
  for (int begin = task.begin; begin < task.end; begin += kColumns)
    block.run(weights, begin, from, to, [&](int slice, const auto& sums) {
      float* const where =
          apart ? scratch.partial + std::int64_t{slice} * shape.rows * shape.n : out;
      const bool whole = !apart && slice == shape.slices - 1;
      put_sums(sums, tile, begin, task.end, shape.n, where, !apart && slice > 0,
               whole ? bias : nullptr);
    });
  if (apart) add_slices(shape, scratch, task, bias, out);
}

}  // namespace dream_r::cuda
