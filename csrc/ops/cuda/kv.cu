// The paged cache: new tokens in, whole blocks copied.
//
// A token's values are one run of `dim` elements a head; its keys lie 16 elements apart (a block's
// keys are transposed), so their stores are scattered. A pass of many tokens would gain from whole
// blocks in shared memory; a decoded token writes a few KB in all.
#include <cuda_bf16.h>

#include "ops/cuda/kernels.h"
#include "ops/cuda/launch.cuh"

namespace dream_r::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kBlock = 16;  // tokens of a KV block

__device__ __forceinline__ void put(float* to, float x) { *to = x; }
__device__ __forceinline__ void put(__nv_bfloat16* to, float x) { *to = __float2bfloat16_rn(x); }

// One block a token.
template <class T>
__global__ void kv_write_kernel(const float* qkv, int q, int kv, int dim, const std::int32_t* slot,
                                T* keys, T* values) {
  const float* k = qkv + (static_cast<std::int64_t>(blockIdx.x) * (q + 2 * kv) + q) * dim;
  const float* v = k + kv * dim;
  const std::int64_t block = slot[blockIdx.x] / kBlock;
  const int at = slot[blockIdx.x] % kBlock;
  for (int i = threadIdx.x; i < kv * dim; i += kThreads) {
    const int head = i / dim, d = i % dim;
    const std::int64_t base = (block * kv + head) * dim * kBlock;
    put(keys + base + d * kBlock + at, k[i]);
    put(values + base + at * dim + d, v[i]);
  }
}

// One block a (tensor, copy) and slice of 16 KB.
constexpr int kSlice = 4 * kThreads;  // 16-byte pieces
__global__ void copy_blocks_kernel(BlockCopies c, std::int64_t pieces) {
  auto* data = static_cast<uint4*>(c.data[blockIdx.y]);
  const uint4* from = data + c.copies[blockIdx.z].src * pieces;
  uint4* to = data + c.copies[blockIdx.z].dst * pieces;
  const std::int64_t begin = static_cast<std::int64_t>(blockIdx.x) * kSlice;
  const std::int64_t end = begin + kSlice < pieces ? begin + kSlice : pieces;
  for (std::int64_t i = begin + threadIdx.x; i < end; i += kThreads) to[i] = from[i];
}

template <class T>
void write(const float* qkv, int q, int kv, int dim, const std::int32_t* slot, std::int64_t rows,
           void* keys, void* values, cudaStream_t stream) {
  if (rows > 0)
    launch(kv_write_kernel<T>, {static_cast<unsigned>(rows), kThreads, 0, stream}, qkv, q, kv, dim,
           slot, static_cast<T*>(keys), static_cast<T*>(values));
}

}  // namespace

void kv_write_f32(const float* qkv, int q, int kv, int dim, const std::int32_t* slot,
                  std::int64_t rows, void* keys, void* values, cudaStream_t stream) {
  write<float>(qkv, q, kv, dim, slot, rows, keys, values, stream);
}

void kv_write_bf16(const float* qkv, int q, int kv, int dim, const std::int32_t* slot,
                   std::int64_t rows, void* keys, void* values, cudaStream_t stream) {
  write<__nv_bfloat16>(qkv, q, kv, dim, slot, rows, keys, values, stream);
}

void copy_blocks(const BlockCopies& c, std::int64_t block_bytes, cudaStream_t stream) {
  const std::int64_t pieces = block_bytes / 16;
  const dim3 grid(static_cast<unsigned>((pieces + kSlice - 1) / kSlice),
                  static_cast<unsigned>(c.tensors), static_cast<unsigned>(c.count));
  launch(copy_blocks_kernel, {grid, kThreads, 0, stream}, c, pieces);
}

}  // namespace dream_r::cuda
