// Attention inside segments, not causal: the vision tower.
//
// Every key and value is used by all queries of its segment (thousands), so a first kernel packs
// them once: bf16 (or f16), per head [tokens][kDim], dimensions between `dim` and kDim zero. The
// second takes 16 queries a warp (64 or 128 a block of threads) against tiles of keys that cp.async
// brings one ahead. With ops::Products::f32 a number is three bf16 planes, which is exact, and a
// product the six products of planes i, j with i + j < 3: the three left out are below 2^-24 of it.
#include <cmath>

#include "ops/cuda/attention.h"
#include "ops/cuda/attention_tile.cuh"
#include "ops/cuda/launch.cuh"

namespace dream_r::cuda {
namespace {

// Keys of a tile: as many as registers hold.
template <int kDim, int kPlanes>
constexpr int kTileKeys = kPlanes == 1 ? 64
                          : kDim <= 80 ? 32
                                       : 16;

struct SegmentArgs {
  const float* qkv;
  float* out;
  const std::int32_t* cu;
  const void* packed;  // bf16 or f16 [keys, values][planes][heads][tokens][kDim]
  int tokens, heads, dim;
  float scale;  // log2(e) / sqrt(dim)
};

// One thread a pair of neighbouring elements of K or V (blockIdx.y).
template <class T, int kDim, int kPlanes>
__global__ void __launch_bounds__(256) pack_kernel(const SegmentArgs a, std::uint32_t* packed) {
  follow();
  const std::int64_t pairs = std::int64_t{a.heads} * a.tokens * (kDim / 2);
  const std::int64_t i = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= pairs) return;
  const int d = static_cast<int>(i % (kDim / 2)) * 2;
  const std::int64_t token = i / (kDim / 2) % a.tokens, head = i / (kDim / 2) / a.tokens;
  const std::int64_t part = 1 + blockIdx.y;
  float2 v{0.0f, 0.0f};
  if (d < a.dim)
    v = *reinterpret_cast<const float2*>(a.qkv + ((token * 3 + part) * a.heads + head) * a.dim + d);
  std::uint32_t planes[kPlanes];
  split_pair<T>(v.x, v.y, planes);
#pragma unroll
  for (int p = 0; p < kPlanes; ++p) packed[(blockIdx.y * kPlanes + p) * pairs + i] = planes[p];
}

template <class T, int kDim, int kPlanes>
struct SegmentTile {
  T keys[kPlanes][kTileKeys<kDim, kPlanes> * kPaddedRow<kDim>];
  T values[kPlanes][kTileKeys<kDim, kPlanes> * kPaddedRow<kDim>];
};

// Copies a tile of keys from `first` on of a head, zeros from `end` on.
template <class T, int kDim, int kPlanes>
__device__ void copy_tile(const SegmentArgs& a, int first, int end,
                          SegmentTile<T, kDim, kPlanes>& to) {
  constexpr int kChunks = kDim / 8;
  const std::int64_t plane = std::int64_t{a.heads} * a.tokens * kDim;
  const std::int64_t head = std::int64_t{blockIdx.y} * a.tokens * kDim;
#pragma unroll
  for (int p = 0; p < kPlanes; ++p) {
    const T* keys = static_cast<const T*>(a.packed) + p * plane + head;
    const T* values = keys + kPlanes * plane;
    for (int i = threadIdx.x; i < kTileKeys<kDim, kPlanes> * kChunks; i += blockDim.x) {
      const int key = i / kChunks, d = i % kChunks * 8;
      const int bytes = first + key < end ? 16 : 0;
      const std::int64_t from = std::int64_t{bytes ? first + key : 0} * kDim + d;
      cp_async_16(to.keys[p] + key * kPaddedRow<kDim> + d, keys + from, bytes);
      cp_async_16(to.values[p] + key * kPaddedRow<kDim> + d, values + from, bytes);
    }
  }
}

// s += queries [16 x kDim] * keys of 16 rows, [16][kPaddedRow].
template <int kDim, class T>
__device__ void add_scores(const Fragment (&q)[kDim / 16], const T* keys, float (&low)[4],
                           float (&high)[4]) {
  const int lane = threadIdx.x % 32;
  const T* at = keys + (lane / 16 * 8 + lane % 8) * kPaddedRow<kDim> + lane / 8 % 2 * 8;
#pragma unroll
  for (int step = 0; step < kDim / 16; ++step) {
    Fragment k;
    ldmatrix_x4(k, at + step * 16);
    multiply<T>(low, q[step], k, 0);
    multiply<T>(high, q[step], k, 1);
  }
}

template <class T, int kDim, int kPlanes>
__device__ void score_tile(const Fragment (&q)[kPlanes][kDim / 16],
                           const SegmentTile<T, kDim, kPlanes>& tile, int keys,
                           float (&s)[kTileKeys<kDim, kPlanes> / 8][4]) {
  const int column = 2 * (threadIdx.x % 4);
#pragma unroll
  for (int t = 0; t < kTileKeys<kDim, kPlanes> / 8; t += 2) {
#pragma unroll
    for (int i = 0; i < 4; ++i) s[t][i] = s[t + 1][i] = 0.0f;
#pragma unroll
    for (int i = 0; i < kPlanes; ++i)
#pragma unroll
      for (int j = 0; i + j < kPlanes; ++j)
        add_scores<kDim>(q[i], tile.keys[j] + t * 8 * kPaddedRow<kDim>, s[t], s[t + 1]);
  }
  if (keys >= kTileKeys<kDim, kPlanes>) return;
#pragma unroll
  for (int t = 0; t < kTileKeys<kDim, kPlanes> / 8; ++t)
#pragma unroll
    for (int i = 0; i < 4; ++i)
      if (t * 8 + column + i % 2 >= keys) s[t][i] = -INFINITY;
}

template <class T, int kDim, int kPlanes>
__device__ void add_tile(const float (&s)[kTileKeys<kDim, kPlanes> / 8][4],
                         const SegmentTile<T, kDim, kPlanes>& tile, float (&acc)[kDim / 8][4]) {
#pragma unroll
  for (int t = 0; t < kTileKeys<kDim, kPlanes> / 8; t += 2) {
    Fragment p[kPlanes];
    pack_weights<T>(s[t], s[t + 1], p);
#pragma unroll
    for (int i = 0; i < kPlanes; ++i)
#pragma unroll
      for (int j = 0; i + j < kPlanes; ++j)
        add_values<kDim>(p[i], tile.values[j] + t * 8 * kPaddedRow<kDim>, acc);
  }
}

template <int kDim>
__device__ void store(const SegmentArgs& a, int query, int end, const Softmax& softmax,
                      const float (&acc)[kDim / 8][4]) {
  const int column = 2 * (threadIdx.x % 4);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float inverse = 1.0f / softmax.total(half);
    if (query + 8 * half >= end) continue;
    float* out = a.out + (std::int64_t{query + 8 * half} * a.heads + blockIdx.y) * a.dim;
#pragma unroll
    for (int t = 0; t < kDim / 8; ++t)
      if (t * 8 < a.dim)
        *reinterpret_cast<float2*>(out + t * 8 + column) = {acc[t][2 * half] * inverse,
                                                            acc[t][2 * half + 1] * inverse};
  }
}

template <class T, int kDim, int kPlanes>
__global__ void __launch_bounds__(256, 1) segment_kernel(const SegmentArgs a) {
  follow();
  using Tile = SegmentTile<T, kDim, kPlanes>;
  DR_DYNAMIC_SHARED(Tile, shared);
  const int begin = a.cu[blockIdx.z], end = a.cu[blockIdx.z + 1];
  const int warps = blockDim.x / 32, lane = threadIdx.x % 32;
  const int tile = begin + static_cast<int>(blockIdx.x) * warps * kTileRows;
  if (tile >= end) return;
  copy_tile(a, begin, end, shared[0]);
  cp_async_commit();

  const int query = tile + static_cast<int>(threadIdx.x) / 32 * kTileRows + lane / 4;
  Fragment q[kPlanes][kDim / 16];
  load_queries<T, kDim>(
      [&](int half) {
        const std::int64_t token = query + 8 * half;
        return token < end ? a.qkv + (token * 3 * a.heads + blockIdx.y) * a.dim : nullptr;
      },
      a.dim, q);

  Softmax softmax;
  float acc[kDim / 8][4] = {};
  constexpr int kKeys = kTileKeys<kDim, kPlanes>;
  const int turns = (end - begin + kKeys - 1) / kKeys;
  for (int turn = 0; turn < turns; ++turn) {
    const int first = begin + turn * kKeys;
    if (turn + 1 < turns) copy_tile(a, first + kKeys, end, shared[(turn + 1) % 2]);
    cp_async_commit();
    cp_async_wait<1>();
    __syncthreads();
    float s[kKeys / 8][4];
    score_tile(q, shared[turn % 2], end - first, s);
    softmax.step(s, a.scale, acc);
    add_tile(s, shared[turn % 2], acc);
    __syncthreads();
  }
  store<kDim>(a, query, end, softmax, acc);
}

int padded_dim(int dim) { return dim <= 64 ? 64 : dim <= 80 ? 80 : 128; }
int planes(ops::Products p) { return p == ops::Products::f32 ? 3 : 1; }

template <class T, int kDim, int kPlanes>
void run(const SegmentBatch& b, SegmentArgs a, void* scratch, cudaStream_t stream) {
  const std::int64_t pairs = std::int64_t{b.heads} * b.tokens * (kDim / 2);
  launch(pack_kernel<T, kDim, kPlanes>,
         {dim3(static_cast<unsigned>((pairs + 255) / 256), 2), dim3(256), 0, stream}, a,
         static_cast<std::uint32_t*>(scratch));
  const int warps = b.max_segment > 64 ? 8 : 4, queries = warps * kTileRows;
  launch(segment_kernel<T, kDim, kPlanes>,
         {dim3((b.max_segment + queries - 1) / queries, b.heads, b.segments), dim3(warps * 32),
          2 * sizeof(SegmentTile<T, kDim, kPlanes>), stream},
         a);
}

template <int kDim>
void run(const SegmentBatch& b, const SegmentArgs& a, void* scratch, cudaStream_t stream) {
  switch (b.products) {
    case ops::Products::f32:
      return run<__nv_bfloat16, kDim, 3>(b, a, scratch, stream);
    case ops::Products::bf16:
      return run<__nv_bfloat16, kDim, 1>(b, a, scratch, stream);
    case ops::Products::f16:
      return run<__half, kDim, 1>(b, a, scratch, stream);
  }
}

}  // namespace

std::size_t segment_scratch(const SegmentBatch& b) {
  return std::size_t{2} * planes(b.products) * b.heads * b.tokens * padded_dim(b.dim) *
         sizeof(std::uint16_t);
}

void segment_attention(const SegmentBatch& b, void* scratch, cudaStream_t stream) {
  if (b.segments == 0 || b.max_segment == 0) return;
  const float scale =
      static_cast<float>(1.4426950408889634 / std::sqrt(static_cast<double>(b.dim)));
  const SegmentArgs a{b.qkv, b.out, b.cu, scratch, b.tokens, b.heads, b.dim, scale};
  const int dim = padded_dim(b.dim);
  if (dim == 64) return run<64>(b, a, scratch, stream);
  if (dim == 80) return run<80>(b, a, scratch, stream);
  run<128>(b, a, scratch, stream);
}

}  // namespace dream_r::cuda
