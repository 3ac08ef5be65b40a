#pragma once
// A row of a paged batch as the kernels walk it: KV blocks of the prefix, then those of its own.
#include <cuda_runtime.h>

#include <cstdint>

#include "ops/cuda/attention.h"
#include "ops/cuda/reduce.cuh"

namespace dream_r::cuda {

constexpr int kBlockKeys = ops::kKvBlock;

// AttentionBatch as the kernels read it.
struct AttentionArgs {
  const float* q;
  std::int64_t q_stride;
  float* out;
  const void *k, *v;
  const ops::AttentionRow* rows;
  int tokens, q_heads, kv_heads, group, dim, splits;
  float scale;     // log2(e) / sqrt(dim): exponentials are powers of two
  float* partial;  // see Partial; null when splits == 1
};

AttentionArgs attention_args(const AttentionBatch& b, int splits, float* scratch);

// What a split leaves: sums of exp2(score - max) * v and of exp2(score - max). In scratch lie all
// sums [splits, tokens, q_heads, dim], then all (max, sum) [splits, tokens, q_heads].
struct Partial {
  float* acc;
  float2* stat;
};
__device__ inline Partial partial_of(const AttentionArgs& a, int split, int token, int head) {
  const std::int64_t heads = std::int64_t{a.tokens} * a.q_heads;
  const std::int64_t at = split * heads + std::int64_t{token} * a.q_heads + head;
  float* stats = a.partial + a.splits * heads * a.dim;
  return {a.partial + at * a.dim, reinterpret_cast<float2*>(stats) + at};
}

__device__ inline const float* query_row(const AttentionArgs& a, int token, int head) {
  return a.q + token * a.q_stride + std::int64_t{head} * a.dim;
}

struct Max {
  __device__ float operator()(float x, float y) const { return fmaxf(x, y); }
};
__device__ inline float2 scaled(float2 v, float by) { return {v.x * by, v.y * by}; }
__device__ inline float4 scaled(float4 v, float by) {
  return {v.x * by, v.y * by, v.z * by, v.w * by};
}

// Elements [d, d + 2 or 4) of a query row's sums: to `out`, divided by `sum`, when the keys were
// not split, else to scratch.
template <class Vector>
__device__ void store_row(const AttentionArgs& a, int split, int token, int head, int d, Vector acc,
                          float max, float sum) {
  if (a.splits == 1) {
    float* out = a.out + (std::int64_t{token} * a.q_heads + head) * a.dim;
    *reinterpret_cast<Vector*>(out + d) = scaled(acc, 1.0f / sum);
    return;
  }
  const Partial to = partial_of(a, split, token, head);
  *reinterpret_cast<Vector*>(to.acc + d) = acc;
  if (d == 0) *to.stat = {max, sum};
}

// The keys that query tokens up to `last` of a row see.
struct RowKeys {
  const std::int32_t *prefix_table, *own_table;
  int prefix_len, own_begin, prefix_blocks, blocks, last;

  __device__ RowKeys(const ops::AttentionRow& r, int last_token)
      : prefix_table(r.prefix_table),
        own_table(r.own_table),
        prefix_len(r.prefix_len),
        own_begin(r.own_begin),
        prefix_blocks((r.prefix_len + kBlockKeys - 1) / kBlockKeys),
        blocks(prefix_blocks + (r.own_begin + last_token) / kBlockKeys + 1),
        last(last_token) {}

  __device__ int id(int block) const {
    return block < prefix_blocks ? prefix_table[block] : own_table[block - prefix_blocks];
  }
  // How many of a block's keys, the first ones, query `token` sees: none if <= 0, all if >= 16.
  __device__ int seen(int block, int token) const {
    return block < prefix_blocks ? prefix_len - block * kBlockKeys
                                 : own_begin + token + 1 - (block - prefix_blocks) * kBlockKeys;
  }
  // How many hold a token. What lies behind them was never written and may be NaN.
  __device__ int written(int block) const { return seen(block, last); }
};

// Share `index` of `count` of n items: [begin, end).
struct Range {
  int begin, end;
};
__device__ inline Range share(int n, int index, int count) {
  return {static_cast<int>(std::int64_t{n} * index / count),
          static_cast<int>(std::int64_t{n} * (index + 1) / count)};
}

}  // namespace dream_r::cuda
