// Paged attention in f32 throughout, for every head dimension and cache type that the tensor-core
// kernels do not take: f32 caches (tests, tiny models) and unusual dimensions. One warp a (token,
// query head): a lane scores one of 32 keys (two KV blocks), then owns every 32nd element of the
// output. Written to be plainly right; nothing is shared between heads or tokens.
#include <cuda_runtime.h>

#include "ops/cuda/attention_rows.cuh"
#include "ops/cuda/element.cuh"
#include "ops/cuda/launch.cuh"
#include "ops/cuda/reduce.cuh"

namespace dream_r::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kMost = kMaxHeadDim / 32;  // elements of the output a lane owns

// The lane's key of blocks `block` and `block` + 1; -inf if `token` does not see it.
template <class T>
__device__ float score(const AttentionArgs& a, const T* keys, const RowKeys& row, int block,
                       int token, const float* q) {
  const int key = threadIdx.x % 16;
  block += threadIdx.x % 32 / 16;
  if (block >= row.blocks || key >= row.seen(block, token)) return -INFINITY;
  const T* k = keys + row.id(block) * (std::int64_t{a.kv_heads} * a.dim * kBlockKeys) + key;
  float sum = 0.0f;
  for (int d = 0; d < a.dim; ++d) sum += q[d] * Element<T>::widen(k[d * kBlockKeys]);
  return sum * a.scale;
}

// acc += weights of a block's keys (lanes from `first_lane` on hold them) times its values.
template <class T>
__device__ void add_block(const T* values, int dim, int count, float weight, int first_lane,
                          float (&acc)[kMost]) {
  const int lane = threadIdx.x % 32;
  for (int key = 0; key < count; ++key) {
    const float p = __shfl_sync(kAllLanes, weight, first_lane + key);
#pragma unroll
    for (int i = 0; i < kMost; ++i)
      if (lane + 32 * i < dim) acc[i] += p * Element<T>::widen(values[key * dim + lane + 32 * i]);
  }
}

template <class T>
__global__ void __launch_bounds__(kWarps * 32) plain_kernel(const AttentionArgs a) {
  follow();
  const ops::AttentionRow r = a.rows[blockIdx.z];
  const int lane = threadIdx.x % 32, head = blockIdx.x * kWarps + threadIdx.x / 32;
  const int token = blockIdx.y;
  if (token >= r.q_len || head >= a.q_heads) return;
  const RowKeys row(r, token);
  const std::int64_t size = std::int64_t{a.dim} * kBlockKeys, stride = a.kv_heads * size;
  const T* keys = static_cast<const T*>(a.k) + head / a.group * size;
  const T* values = static_cast<const T*>(a.v) + head / a.group * size;
  const float* q = query_row(a, r.q_begin + token, head);

  float max = -INFINITY, sum = 0.0f, acc[kMost] = {};
  for (int block = 0; block < row.blocks; block += 2) {
    const float s = score(a, keys, row, block, token, q);
    const float before = max;
    max = fmaxf(max,
                warp_reduce(s, Max{}));  // finite: the first of two blocks always has a key to see
    const float keep = exp2f(before - max), weight = exp2f(s - max);
    sum = sum * keep + weight;
#pragma unroll
    for (int i = 0; i < kMost; ++i) acc[i] *= keep;
    for (int half = 0; half < 2 && block + half < row.blocks; ++half)
      add_block(values + row.id(block + half) * stride, a.dim,
                min(row.seen(block + half, token), kBlockKeys), weight, 16 * half, acc);
  }
  sum = warp_reduce(sum, [](float x, float y) { return x + y; });
  float* out = a.out + (std::int64_t{r.q_begin + token} * a.q_heads + head) * a.dim;
#pragma unroll
  for (int i = 0; i < kMost; ++i)
    if (lane + 32 * i < a.dim) out[lane + 32 * i] = acc[i] / sum;
}

}  // namespace

void attention_plain(const AttentionBatch& b, cudaStream_t stream) {
  const dim3 grid((b.heads.q + kWarps - 1) / kWarps, b.max_q_len, b.count);
  with_element(b.kv, [&](auto element) {
    launch(plain_kernel<decltype(element)>, {grid, dim3(kWarps * 32), 0, stream},
           attention_args(b, 1, nullptr));
  });
}

}  // namespace dream_r::cuda
