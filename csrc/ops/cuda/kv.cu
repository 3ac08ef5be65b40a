// The paged cache: new tokens in, whole blocks copied.
//
// A token's values are one run of `dim` elements a head; its keys lie 16 elements apart (a block's
// keys are transposed), so their stores are scattered. A forward writes by rope_write.cu.
#include "ops/cuda/kernels.h"
#include "ops/cuda/kv_place.cuh"
#include "ops/cuda/launch.cuh"

namespace dream_r::cuda {
namespace {

constexpr int kThreads = 256;

// One block a token.
template <class T>
__global__ void kv_write_kernel(const float* qkv, int q, int kv, int dim, const std::int32_t* slot,
                                void* keys, void* values) {
  follow();
  const float* k = qkv + (static_cast<std::int64_t>(blockIdx.x) * (q + 2 * kv) + q) * dim;
  const float* v = k + kv * dim;
  for (int i = threadIdx.x; i < kv * dim; i += kThreads) {
    const int head = i / dim, d = i % dim;
    const KvPlace<T> to(keys, values, slot[blockIdx.x], kv, head, dim);
    put(to.key + d * kKvTokens, k[i]);
    put(to.value + d, v[i]);
  }
}

// One block a (tensor, copy) and slice of 16 KB.
constexpr int kSlice = 4 * kThreads;  // 16-byte pieces
__global__ void copy_blocks_kernel(BlockCopies c, std::int64_t pieces) {
  follow();
  auto* data = static_cast<uint4*>(c.data[blockIdx.y]);
  const uint4* from = data + c.copies[blockIdx.z].src * pieces;
  uint4* to = data + c.copies[blockIdx.z].dst * pieces;
  const std::int64_t begin = static_cast<std::int64_t>(blockIdx.x) * kSlice;
  const std::int64_t end = begin + kSlice < pieces ? begin + kSlice : pieces;
  for (std::int64_t i = begin + threadIdx.x; i < end; i += kThreads) to[i] = from[i];
}

}  // namespace

void kv_write(const float* qkv, int q, int kv, int dim, const std::int32_t* slot, std::int64_t rows,
              DType type, void* keys, void* values, cudaStream_t stream) {
  if (rows == 0) return;
  with_element(type, [&](auto element) {
    launch(kv_write_kernel<decltype(element)>, {static_cast<unsigned>(rows), kThreads, 0, stream},
           qkv, q, kv, dim, slot, keys, values);
  });
}

void copy_blocks(const BlockCopies& c, std::int64_t block_bytes, cudaStream_t stream) {
  const std::int64_t pieces = block_bytes / 16;
  const dim3 grid(static_cast<unsigned>((pieces + kSlice - 1) / kSlice),
                  static_cast<unsigned>(c.tensors), static_cast<unsigned>(c.count));
  launch(copy_blocks_kernel, {grid, kThreads, 0, stream}, c, pieces);
}

}  // namespace dream_r::cuda
