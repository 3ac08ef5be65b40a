// Rows gathered, scattered, mixed, or read out of a packed weight: one element a thread, along the
// row, so that loads and stores of a warp are whole lines and one row waits for memory but once.
#include "ops/cuda/element.cuh"
#include "ops/cuda/kernels.h"
#include "ops/cuda/launch.cuh"

namespace dream_r::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kPanel = 16;  // rows of a packed weight that lie side by side

// blockIdx.x is the row.
Launch one_thread_each(std::int64_t rows, std::int64_t elements, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(rows),
                  static_cast<unsigned>((elements + kThreads - 1) / kThreads));
  return {grid, kThreads, 0, stream};
}
__device__ __forceinline__ std::int64_t element() {
  return std::int64_t{blockIdx.y} * kThreads + threadIdx.x;
}

__global__ void gather_kernel(const float* x, const std::int32_t* index, std::int64_t h,
                              float* out) {
  follow();
  const std::int64_t i = element();
  if (i < h) out[blockIdx.x * h + i] = x[index[blockIdx.x] * h + i];
}

template <bool kAdd>
__global__ void scatter_kernel(const float* y, const std::int32_t* index, std::int64_t h,
                               float* x) {
  follow();
  const std::int64_t i = element();
  if (i >= h) return;
  float* const to = x + index[blockIdx.x] * h + i;
  const float from = y[blockIdx.x * h + i];
  *to = kAdd ? *to + from : from;
}

__global__ void bilinear_kernel(const float* table, const std::int32_t* index, const float* weight,
                                std::int64_t h, float* out) {
  follow();
  const std::int64_t i = element();
  if (i >= h) return;
  index += blockIdx.x * 4, weight += blockIdx.x * 4;
  float sum = 0;
  for (int j = 0; j < 4; ++j) sum += weight[j] * table[index[j] * h + i];
  out[blockIdx.x * h + i] = sum;
}

// A panel's line holds four bytes of each of its 16 rows: a row's bytes lie 64 apart.
__device__ const std::uint32_t* row_of(const std::uint32_t* packed, std::int64_t steps, int id) {
  return packed + id / kPanel * steps * kPanel + id % kPanel;
}

__global__ void embedding_f32_kernel(const std::int32_t* ids, const std::uint32_t* packed,
                                     std::int64_t k, float* out) {
  follow();
  const std::int64_t i = element();
  if (i < k)
    out[blockIdx.x * k + i] = __uint_as_float(row_of(packed, k, ids[blockIdx.x])[i * kPanel]);
}

template <class T>
__global__ void embedding_pairs_kernel(const std::int32_t* ids, const std::uint32_t* packed,
                                       std::int64_t k, float* out) {
  follow();
  const std::int64_t pairs = (k + 1) / 2, i = element();
  if (i >= pairs) return;
  const float2 pair = Element<T>::widen_pair(row_of(packed, pairs, ids[blockIdx.x])[i * kPanel]);
  float* to = out + blockIdx.x * k + 2 * i;
  to[0] = pair.x;
  if (2 * i + 1 < k) to[1] = pair.y;
}

__global__ void embedding_w4_kernel(const std::int32_t* ids, const std::uint32_t* packed,
                                    std::int64_t k, std::int64_t group, float* out) {
  follow();
  const std::int64_t i = element();
  if (i >= k) return;
  const std::uint32_t* row = row_of(packed, k / 8 + k / group, ids[blockIdx.x]);
  // Lines of a group: its head, then eight elements each.
  const std::int64_t head = i / group * (1 + group / 8);
  const std::uint32_t scale = row[head * kPanel];
  const std::uint32_t word = row[(head + 1 + i % group / 8) * kPanel];
  const int q = static_cast<int>(word >> 4 * (i % 8) & 15u), zero = static_cast<int>(scale & 15u);
  out[blockIdx.x * k + i] = static_cast<float>(q - zero) * __uint_as_float(scale & ~15u);
}

}  // namespace

void gather_rows(const float* x, const std::int32_t* index, std::int64_t rows, std::int64_t h,
                 float* out, cudaStream_t stream) {
  if (rows > 0 && h > 0) launch(gather_kernel, one_thread_each(rows, h, stream), x, index, h, out);
}

void scatter_rows(const float* y, const std::int32_t* index, std::int64_t rows, std::int64_t h,
                  float* x, cudaStream_t stream) {
  if (rows > 0 && h > 0)
    launch(scatter_kernel<false>, one_thread_each(rows, h, stream), y, index, h, x);
}

void scatter_add_rows(const float* y, const std::int32_t* index, std::int64_t rows, std::int64_t h,
                      float* x, cudaStream_t stream) {
  if (rows > 0 && h > 0)
    launch(scatter_kernel<true>, one_thread_each(rows, h, stream), y, index, h, x);
}

void bilinear_rows(const float* table, const std::int32_t* index, const float* weight,
                   std::int64_t rows, std::int64_t h, float* out, cudaStream_t stream) {
  if (rows > 0 && h > 0)
    launch(bilinear_kernel, one_thread_each(rows, h, stream), table, index, weight, h, out);
}

void embedding_f32(const std::int32_t* ids, const void* packed, std::int64_t rows, std::int64_t k,
                   float* out, cudaStream_t stream) {
  if (rows > 0 && k > 0)
    launch(embedding_f32_kernel, one_thread_each(rows, k, stream), ids,
           static_cast<const std::uint32_t*>(packed), k, out);
}

void embedding_bf16(const std::int32_t* ids, const void* packed, std::int64_t rows, std::int64_t k,
                    float* out, cudaStream_t stream) {
  if (rows > 0 && k > 0)
    launch(embedding_pairs_kernel<__nv_bfloat16>, one_thread_each(rows, (k + 1) / 2, stream), ids,
           static_cast<const std::uint32_t*>(packed), k, out);
}

void embedding_f16(const std::int32_t* ids, const void* packed, std::int64_t rows, std::int64_t k,
                   float* out, cudaStream_t stream) {
  if (rows > 0 && k > 0)
    launch(embedding_pairs_kernel<__half>, one_thread_each(rows, (k + 1) / 2, stream), ids,
           static_cast<const std::uint32_t*>(packed), k, out);
}

void embedding_w4(const std::int32_t* ids, const void* packed, std::int64_t rows, std::int64_t k,
                  std::int64_t group, float* out, cudaStream_t stream) {
  if (rows > 0 && k > 0)
    launch(embedding_w4_kernel, one_thread_each(rows, k, stream), ids,
           static_cast<const std::uint32_t*>(packed), k, group, out);
}

}  // namespace dream_r::cuda
