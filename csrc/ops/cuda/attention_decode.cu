// Paged attention of a few query tokens a row (decode, short drafts): bound by reading the cache.
//
// A block of threads takes one row, one kv head (its whole group of query heads and all of the
// row's tokens, at most 16 pairs, so keys and values are read once) and one share of the row's
// keys. Its four warps take KV blocks in turn; each has two buffers of its own that cp.async fills
// one block ahead, so no barrier stands in the loop. The warps' sums meet in shared memory; those
// of several shares in scratch, where attention_reduce merges them. Shares are equal parts of the
// row's true length, read from device memory: a captured graph stays balanced as rows grow.
#include "ops/cuda/attention_block.cuh"
#include "ops/cuda/launch.cuh"

namespace dream_r::cuda {
namespace {

constexpr int kWarps = 4;

template <class T, int kDim>
struct WarpBuffers {
  SharedBlock<T, kDim> block[2];
};

// What a warp leaves for the others, in place of its buffers. Rows are padded against bank
// conflicts.
template <int kDim>
struct WarpResult {
  float acc[kTileRows][kDim + 8];
  float max[kTileRows], sum[kTileRows];
};
template <class T, int kDim>
union WarpShared {
  WarpBuffers<T, kDim> buffers;
  WarpResult<kDim> result;
};

template <int kDim>
__device__ void leave_result(const Softmax& softmax, const float (&acc)[kDim / 8][4],
                             WarpResult<kDim>& to) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = lane / 4 + 8 * half;
    const float sum = softmax.total(half);
    if (lane % 4 == 0) {
      to.max[row] = softmax.max[half];
      to.sum[row] = sum;
    }
#pragma unroll
    for (int t = 0; t < kDim / 8; ++t)
      *reinterpret_cast<float2*>(&to.acc[row][t * 8 + 2 * (lane % 4)]) = {acc[t][2 * half],
                                                                          acc[t][2 * half + 1]};
  }
}

// Merges the warps' rows [0, rows): to `out` when the keys were not split, else to scratch.
template <class T, int kDim>
__device__ void merge_warps(const AttentionArgs& a, const WarpShared<T, kDim>* warps, int rows,
                            int q_begin, int first_head) {
  for (int i = threadIdx.x; i < rows * (kDim / 4); i += kWarps * 32) {
    const int row = i / (kDim / 4), d = i % (kDim / 4) * 4;
    float max = -INFINITY, sum = 0.0f;
    float4 acc{0.0f, 0.0f, 0.0f, 0.0f};
    for (int w = 0; w < kWarps; ++w) max = fmaxf(max, warps[w].result.max[row]);
    for (int w = 0; w < kWarps; ++w) {
      const WarpResult<kDim>& r = warps[w].result;
      const float weight = r.sum[row] > 0.0f ? exp2_fast(r.max[row] - max) : 0.0f;
      const float4 v = *reinterpret_cast<const float4*>(&r.acc[row][d]);
      sum += weight * r.sum[row];
      acc = {acc.x + weight * v.x, acc.y + weight * v.y, acc.z + weight * v.z,
             acc.w + weight * v.w};
    }
    const int token = q_begin + row / a.group, head = first_head + row % a.group;
    store_row(a, blockIdx.x, token, head, d, acc, max, sum);
  }
}

template <class T, int kDim>
__global__ void __launch_bounds__(kWarps * 32) decode_kernel(const AttentionArgs a) {
  follow();
  using Shared = WarpShared<T, kDim>;
  DR_DYNAMIC_SHARED(Shared, shared);
  const ops::AttentionRow row = a.rows[blockIdx.z];
  if (row.q_len == 0) return;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int rows = row.q_len * a.group, first_head = blockIdx.y * a.group;
  const RowKeys keys(row, row.q_len - 1);
  const Range range = share(keys.blocks, blockIdx.x, a.splits);
  BlockFeed<T, kDim> feed(a, blockIdx.y, range.begin + warp, range.end);
  const int turns = max(0, (range.end - feed.first + kWarps - 1) / kWarps);
  WarpBuffers<T, kDim>& buffers = shared[warp].buffers;
  if (turns > 0) feed.copy(keys, 0, buffers.block[0], lane, 32);
  cp_async_commit();

  const int pair[2] = {lane / 4, lane / 4 + 8};
  const int token[2] = {min(pair[0], rows - 1) / a.group, min(pair[1], rows - 1) / a.group};
  Fragment q[1][kDim / 16];
  load_queries<T, kDim>(
      [&](int half) {
        return pair[half] < rows
                   ? query_row(a, row.q_begin + token[half], first_head + pair[half] % a.group)
                   : nullptr;
      },
      kDim, q);

  Softmax softmax;
  float acc[kDim / 8][4] = {};
  for (int turn = 0; turn < turns; ++turn) {
    if (turn + 1 < turns) feed.copy(keys, turn + 1, buffers.block[(turn + 1) % 2], lane, 32);
    cp_async_commit();
    cp_async_wait<1>();
    __syncwarp();
    const SharedBlock<T, kDim>& block = buffers.block[turn % 2];
    const int seen[2] = {keys.seen(feed.block(turn), token[0]),
                         keys.seen(feed.block(turn), token[1])};
    float s[2][4];
    score_block(q[0], block, s[0], s[1]);
    mask_block(s[0], s[1], seen);
    softmax.step(s, a.scale, acc);
    Fragment p[1];
    pack_weights<T>(s[0], s[1], p);
    add_values<kDim>(p[0], block.values, acc);
    __syncwarp();
  }
  leave_result<kDim>(softmax, acc, shared[warp].result);
  __syncthreads();
  merge_warps(a, shared, rows, row.q_begin, first_head);
}

template <class T, int kDim>
void run(const AttentionBatch& b, const AttentionPlan& plan, float* scratch, cudaStream_t stream) {
  launch(decode_kernel<T, kDim>,
         {dim3(plan.splits, b.heads.kv, b.count), dim3(kWarps * 32),
          kWarps * sizeof(WarpShared<T, kDim>), stream},
         attention_args(b, plan.splits, scratch));
}

}  // namespace

void attention_decode(const AttentionBatch& b, const AttentionPlan& plan, float* scratch,
                      cudaStream_t stream) {
  with_half_element(b.kv, [&](auto element) {
    using T = decltype(element);
    b.heads.dim == 64 ? run<T, 64>(b, plan, scratch, stream)
                      : run<T, 128>(b, plan, scratch, stream);
  });
}

}  // namespace dream_r::cuda
