// Norm, rotation and the write to the paged cache in one pass over qkv.
//
// A block has one head and up to 16 tokens of the batch, a warp a token at a time. Queries are
// turned in place. A value is one run in the cache; a key's elements lie 16 apart (a block's keys
// are transposed), so the tokens' keys meet in shared memory and leave with the token as the
// fastest index: tokens that are neighbours in a KV block fill whole runs of it. A single token's
// key is 2 (or 4) bytes in every 32 (or 64), which no order of the stores can change.
#include "ops/cuda/kernels.h"
#include "ops/cuda/kv_place.cuh"
#include "ops/cuda/launch.cuh"
#include "ops/cuda/rotary_head.cuh"

namespace dream_r::cuda {
namespace {

constexpr int kThreads = 128, kWarps = kThreads / kWarp;

// Rows of the block's keys in shared memory: padded against bank conflicts.
__host__ __device__ constexpr int padded(int dim) { return dim + 2; }

template <class T>
__global__ void __launch_bounds__(kThreads)
    rope_write_kernel(const RopeHeads a, const std::int32_t* slot, int rows, void* keys,
                      void* values) {
  DR_DYNAMIC_SHARED(float, turned);  // [kKvTokens][padded(dim)]
  follow();
  const int head = blockIdx.x, first = blockIdx.y * kKvTokens, count = min(kKvTokens, rows - first);
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, kv_head = head - a.q;
  if (kv_head < 0) {
    for (int t = warp; t < count; t += kWarps) {
      float* const x = head_of(a, first + t, head);
      turn_head(a, first + t, head, [&](int i, float v) { x[i] = v; });
    }
    return;
  }
  const auto place = [&](int t) {
    return KvPlace<T>(keys, values, slot[first + t], a.kv, kv_head, a.dim);
  };
  for (int job = warp; job < 2 * count; job += kWarps) {  // a token's key, then its value
    const int t = job / 2;
    if (job % 2 == 0) {
      turn_head(a, first + t, head, [&](int i, float v) { turned[t * padded(a.dim) + i] = v; });
    } else {
      const float* const x = head_of(a, first + t, head + a.kv);
      T* const to = place(t).value;
      for (int i = lane; i < a.dim; i += kWarp) put(to + i, x[i]);
    }
  }
  __syncthreads();
  for (int i = threadIdx.x; i < count * a.dim; i += kThreads) {
    const int t = i % count, d = i / count;
    put(place(t).key + d * kKvTokens, turned[t * padded(a.dim) + d]);
  }
}

}  // namespace

void rope_write(const RopeHeads& a, const std::int32_t* slot, std::int64_t rows, DType kv,
                void* keys, void* values, cudaStream_t stream) {
  if (rows == 0) return;
  const dim3 grid(static_cast<unsigned>(a.q + a.kv),
                  static_cast<unsigned>((rows + kKvTokens - 1) / kKvTokens));
  const std::size_t bytes = sizeof(float) * kKvTokens * static_cast<std::size_t>(padded(a.dim));
  with_element(kv, [&](auto element) {
    launch(rope_write_kernel<decltype(element)>, {grid, kThreads, bytes, stream}, a, slot,
           static_cast<int>(rows), keys, values);
  });
}

}  // namespace dream_r::cuda
