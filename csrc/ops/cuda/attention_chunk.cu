// Paged attention of many query tokens a row (prefill chunks, verified steps, scoring suffixes) on
// the tensor cores.
//
// A block of threads takes 16 (token, head of the group) pairs a warp, 64 or 128 in all, of one row
// and one kv head, and walks tiles of four KV blocks (64 keys): while a tile is multiplied,
// cp.async brings the next. Queries and sums stay in registers. Heads of a group share the tile, so
// a tile of keys serves 64 rows even where a step has few tokens. Tiles with the most keys start
// first. With few rows and a long context the keys are split as in attention_decode.
#include "ops/cuda/attention_block.cuh"
#include "ops/cuda/launch.cuh"

namespace dream_r::cuda {
namespace {

constexpr int kTileBlocks = 4;

template <class T, int kDim>
struct KeyTile {
  SharedBlock<T, kDim> block[kTileBlocks];
};

// Writes a warp's 16 rows, those that exist.
template <int kDim>
__device__ void store_tile(const AttentionArgs& a, const ops::AttentionRow& row, int split,
                           int first_pair, const Softmax& softmax,
                           const float (&acc)[kDim / 8][4]) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float sum = softmax.total(half);
    const int pair = first_pair + lane / 4 + 8 * half;
    if (pair >= row.q_len * a.group) continue;
    const int token = row.q_begin + pair / a.group, head = blockIdx.y * a.group + pair % a.group;
#pragma unroll
    for (int t = 0; t < kDim / 8; ++t)
      store_row(a, split, token, head, t * 8 + 2 * (lane % 4),
                float2{acc[t][2 * half], acc[t][2 * half + 1]}, softmax.max[half], sum);
  }
}

// One tile of 64 keys for a warp. token: of the lane's rows; the warp's lowest is token_low.
template <class T, int kDim>
__device__ void attend_tile(const RowKeys& keys, int first_block, const KeyTile<T, kDim>& tile,
                            const Fragment (&q)[kDim / 16], const int (&token)[2], int token_low,
                            float scale, Softmax& softmax, float (&acc)[kDim / 8][4]) {
  float s[2 * kTileBlocks][4];
#pragma unroll
  for (int j = 0; j < kTileBlocks; ++j) {
    score_block(q, tile.block[j], s[2 * j], s[2 * j + 1]);
    const int block = first_block + j;
    if (keys.seen(block, token_low) >= kBlockKeys) continue;
    const int seen[2] = {keys.seen(block, token[0]), keys.seen(block, token[1])};
    mask_block(s[2 * j], s[2 * j + 1], seen);
  }
  softmax.step(s, scale, acc);
#pragma unroll
  for (int j = 0; j < kTileBlocks; ++j) {
    Fragment p[1];
    pack_weights<T>(s[2 * j], s[2 * j + 1], p);
    add_values<kDim>(p[0], tile.block[j].values, acc);
  }
}

template <class T, int kDim>
__global__ void __launch_bounds__(256, 1) chunk_kernel(const AttentionArgs a) {
  follow();
  using Tile = KeyTile<T, kDim>;
  DR_DYNAMIC_SHARED(Tile, shared);
  const ops::AttentionRow row = a.rows[blockIdx.z];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
  const int tile_rows = warps * kTileRows, pairs = row.q_len * a.group;
  const int tile =
      (pairs + tile_rows - 1) / tile_rows - 1 - static_cast<int>(blockIdx.x) / a.splits;
  const int split = blockIdx.x % a.splits;
  if (tile < 0) return;

  const int last_pair = min((tile + 1) * tile_rows, pairs) - 1;
  const RowKeys keys(row, last_pair / a.group);
  const Range range = share((keys.blocks + kTileBlocks - 1) / kTileBlocks, split, a.splits);
  // Block `warp % 4` of every tile is copied by the warps of that remainder.
  BlockFeed<T, kDim> feed(a, blockIdx.y, range.begin * kTileBlocks + warp % kTileBlocks,
                          keys.blocks);
  const auto copy = [&](int turn) {
    feed.copy(keys, turn, shared[turn % 2].block[warp % kTileBlocks],
              lane + warp / kTileBlocks * 32, warps / kTileBlocks * 32);
  };
  const int turns = range.end - range.begin;
  if (turns > 0) copy(0);
  cp_async_commit();

  const int first_pair = tile * tile_rows + warp * kTileRows;
  const int pair[2] = {first_pair + lane / 4, first_pair + lane / 4 + 8};
  const int token[2] = {min(pair[0], last_pair) / a.group, min(pair[1], last_pair) / a.group};
  const int token_low = min(first_pair, last_pair) / a.group;
  Fragment q[1][kDim / 16];
  load_queries<T, kDim>(
      [&](int half) {
        return pair[half] <= last_pair
                   ? query_row(a, row.q_begin + token[half],
                               static_cast<int>(blockIdx.y) * a.group + pair[half] % a.group)
                   : nullptr;
      },
      kDim, q);

  Softmax softmax;
  float acc[kDim / 8][4] = {};
  for (int turn = 0; turn < turns; ++turn) {
    if (turn + 1 < turns) copy(turn + 1);
    cp_async_commit();
    cp_async_wait<1>();
    __syncthreads();
    attend_tile(keys, (range.begin + turn) * kTileBlocks, shared[turn % 2], q[0], token, token_low,
                a.scale, softmax, acc);
    __syncthreads();
  }
  store_tile<kDim>(a, row, split, first_pair, softmax, acc);
}

template <class T, int kDim>
void run(const AttentionBatch& b, const AttentionPlan& plan, float* scratch, cudaStream_t stream) {
  launch(chunk_kernel<T, kDim>,
         {dim3(plan.tiles * plan.splits, b.heads.kv, b.count),
          dim3(plan.tile_rows / kTileRows * 32), 2 * sizeof(KeyTile<T, kDim>), stream},
         attention_args(b, plan.splits, scratch));
}

}  // namespace

void attention_chunk(const AttentionBatch& b, const AttentionPlan& plan, float* scratch,
                     cudaStream_t stream) {
  with_half_element(b.kv, [&](auto element) {
    using T = decltype(element);
    b.heads.dim == 64 ? run<T, 64>(b, plan, scratch, stream)
                      : run<T, 128>(b, plan, scratch, stream);
  });
}

}  // namespace dream_r::cuda
