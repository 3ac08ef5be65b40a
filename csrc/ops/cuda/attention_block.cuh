#pragma once
// A block of the paged bf16 or f16 cache in shared memory: brought there by cp.async, multiplied
// from there. Keys lie as in the cache, [dim][16] (32 bytes a row, whose two 16-byte halves change
// places in every second four rows, so that the eight rows of a fragment lie in different banks);
// values as [16][kPaddedRow].
#include "ops/cuda/attention_rows.cuh"
#include "ops/cuda/attention_tile.cuh"

namespace dream_r::cuda {

template <class T, int kDim>
struct SharedBlock {
  T keys[kDim * kBlockKeys];
  T values[kBlockKeys * kPaddedRow<kDim>];
};

__device__ inline int key_offset(int d, int half) { return d * 16 + (half ^ (d / 4 % 2)) * 8; }

// Issues the copies of worker `index` of `workers`. Values at and behind `written` become 0: they
// may be NaN, and a weight of 0 would not silence them. With nothing written the block is all 0.
template <class T, int kDim>
__device__ void copy_block(SharedBlock<T, kDim>& to, const T* keys, const T* values, int written,
                           int index, int workers) {
#pragma unroll 8
  for (int i = index; i < kDim * 2; i += workers) {
    cp_async_16(to.keys + key_offset(i / 2, i % 2), keys + i * 8, written > 0 ? 16 : 0);
    const int key = i / (kDim / 8), d = i % (kDim / 8) * 8;
    cp_async_16(to.values + key * kPaddedRow<kDim> + d, values + i * 8, key < written ? 16 : 0);
  }
}

// s = queries [16 x kDim] * keys [kDim x 16].
template <class T, int kDim>
__device__ void score_block(const Fragment (&q)[kDim / 16], const SharedBlock<T, kDim>& block,
                            float (&low)[4], float (&high)[4]) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int i = 0; i < 4; ++i) low[i] = high[i] = 0.0f;
#pragma unroll
  for (int step = 0; step < kDim / 16; ++step) {
    Fragment k;
    ldmatrix_x4_trans(k, block.keys + key_offset(step * 16 + lane % 16, lane / 16));
    multiply<T>(low, q[step], k, 0);
    multiply<T>(high, q[step], k, 1);
  }
}

// Hides keys [seen[half], 16) of a block from the lane's rows.
__device__ inline void mask_block(float (&low)[4], float (&high)[4], const int (&seen)[2]) {
  const int column = 2 * (threadIdx.x % 4);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (column + i % 2 >= seen[i / 2]) low[i] = -INFINITY;
    if (column + i % 2 + 8 >= seen[i / 2]) high[i] = -INFINITY;
  }
}

// Hands a warp every fourth block of a row, from `first` on. Ids are read 32 at a time, ahead of
// their use: a lane keeps that of its own turn.
template <class T, int kDim>
struct BlockFeed {
  const T *keys, *values;  // of this kv head, in block 0
  std::int64_t stride;     // elements between blocks
  int first, end, ids = 0;

  __device__ BlockFeed(const AttentionArgs& a, int kv_head, int first_block, int end_block)
      : keys(static_cast<const T*>(a.k) + std::int64_t{kv_head} * kDim * kBlockKeys),
        values(static_cast<const T*>(a.v) + std::int64_t{kv_head} * kDim * kBlockKeys),
        stride(std::int64_t{a.kv_heads} * kDim * kBlockKeys),
        first(first_block),
        end(end_block) {}

  __device__ int block(int turn) const { return first + 4 * turn; }

  // Issues the copy of turn's block, zeros from `end` on. Turns come in order from 0.
  __device__ void copy(const RowKeys& row, int turn, SharedBlock<T, kDim>& to, int index,
                       int workers) {
    const int lane = threadIdx.x % 32;
    if (turn % 32 == 0) ids = block(turn + lane) < end ? row.id(block(turn + lane)) : 0;
    const std::int64_t at = __shfl_sync(kAllLanes, ids, turn % 32) * stride;
    const int written = block(turn) < end ? row.written(block(turn)) : 0;
    copy_block(to, keys + at, values + at, written, index, workers);
  }
};

}  // namespace dream_r::cuda
