#pragma once
// The launchers of csrc/ops/cuda: raw device pointers, sizes, the stream. Each starts its kernels
// and returns at once; an Error says that they could not be started. What an op means stands in
// ops.h; shapes were checked there. Plain C++, so that ops/*.cc include it.
#include <cstddef>
#include <cstdint>

#include "core/cuda.h"
#include "ops/cuda/attention.h"

namespace dream_r::cuda {

// ---- rows.cu
// -------------------------------------------------------------------------------------
void gather_rows(const float* x, const std::int32_t* index, std::int64_t rows, std::int64_t h,
                 float* out, cudaStream_t stream);
void scatter_rows(const float* y, const std::int32_t* index, std::int64_t rows, std::int64_t h,
                  float* x, cudaStream_t stream);
void scatter_add_rows(const float* y, const std::int32_t* index, std::int64_t rows, std::int64_t h,
                      float* x, cudaStream_t stream);
void bilinear_rows(const float* table, const std::int32_t* index, const float* weight,
                   std::int64_t rows, std::int64_t h, float* out, cudaStream_t stream);
// `packed` as LinearWeight keeps it.
void embedding_f32(const std::int32_t* ids, const void* packed, std::int64_t rows, std::int64_t k,
                   float* out, cudaStream_t stream);
void embedding_bf16(const std::int32_t* ids, const void* packed, std::int64_t rows, std::int64_t k,
                    float* out, cudaStream_t stream);
void embedding_f16(const std::int32_t* ids, const void* packed, std::int64_t rows, std::int64_t k,
                   float* out, cudaStream_t stream);
void embedding_w4(const std::int32_t* ids, const void* packed, std::int64_t rows, std::int64_t k,
                  std::int64_t group, float* out, cudaStream_t stream);

// ---- fill.cu
// What fill_linear (ops.h) writes: `panels` of `steps` lines of 16 words, of `rows` rows in all;
// every `lines`-th line is one of heads (0: none); half: the last line's upper halves hold nothing.
struct FillPanels {
  std::int64_t panels, steps, lines, rows;
  bool half;
};
void fill_panels(const std::uint32_t* table, std::uint64_t key, std::uint32_t head,
                 const FillPanels& panels, std::uint32_t* packed, cudaStream_t stream);

// ---- norm.cu
// -------------------------------------------------------------------------------------
void rms_norm(const float* x, const float* w, float eps, std::int64_t rows, std::int64_t h,
              float* out, cudaStream_t stream);
void add_rms_norm(float* residual, const float* delta, const float* w, float eps, std::int64_t rows,
                  std::int64_t h, float* out, cudaStream_t stream);
void layer_norm(const float* x, const float* w, const float* b, float eps, std::int64_t rows,
                std::int64_t h, float* out, cudaStream_t stream);

// ---- elementwise.cu
// ------------------------------------------------------------------------------
void silu_mul(const float* gate_up, std::int64_t rows, std::int64_t f, float* out,
              cudaStream_t stream);
void gelu_exact(float* x, std::int64_t n, cudaStream_t stream);
void gelu_tanh(float* x, std::int64_t n, cudaStream_t stream);
void add(float* a, const float* b, std::int64_t n, cudaStream_t stream);

// ---- rotary.cu
// ----------------------------------------------------------------------------------- By value into
// the kernel: frequency and axis (0 time, 1 height, 2 width) of each pair.
struct MropePairs {
  static constexpr int kMost = 256;
  int count = 0;
  float inv_freq[kMost];
  std::uint8_t axis[kMost];
};
void mrope_table(const std::int32_t* positions, const MropePairs& pairs, std::int64_t rows,
                 float* cos, float* sin, cudaStream_t stream);
struct RopeHeads {
  float* qkv;  // [rows, (q + 2 kv) * dim]
  int q, kv, dim;
  const float *q_norm, *k_norm;  // or null
  float eps;
  const float *cos, *sin;  // [rows, dim / 2]
};
void rope(const RopeHeads& a, std::int64_t rows, cudaStream_t stream);

// ---- rope_write.cu
// The queries of a.qkv in place, keys and values to the cache (as kv_write); a.qkv's keys stay.
void rope_write(const RopeHeads& a, const std::int32_t* slot, std::int64_t rows, DType kv,
                void* keys, void* values, cudaStream_t stream);

// ---- kv.cu
// ---------------------------------------------------------------------------------------
// type: the cache's.
void kv_write(const float* qkv, int q, int kv, int dim, const std::int32_t* slot, std::int64_t rows,
              DType type, void* keys, void* values, cudaStream_t stream);
// By value into the kernel. Every copy is done in every tensor; a block is a multiple of 16 bytes.
struct BlockCopies {
  static constexpr int kMostTensors = 256, kMostCopies = 128;
  void* data[kMostTensors];
  struct {
    std::int32_t src, dst;
  } copies[kMostCopies];
  int tensors = 0, count = 0;
};
void copy_blocks(const BlockCopies& c, std::int64_t block_bytes, cudaStream_t stream);

// ---- moe.cu
// --------------------------------------------------------------------------------------
void moe_route(const float* logits, std::int64_t rows, std::int64_t experts, std::int64_t k,
               bool renormalise, std::int32_t* expert, float* weight, cudaStream_t stream);
void moe_group(const std::int32_t* expert, std::int64_t pairs, std::int64_t k, std::int64_t experts,
               std::int32_t* token, std::int32_t* place, std::int32_t* begin, cudaStream_t stream);
void moe_combine(const float* y, const std::int32_t* place, const float* weight, std::int64_t rows,
                 std::int64_t h, std::int64_t k, float* out, cudaStream_t stream);

// ---- sample.cu
// -----------------------------------------------------------------------------------
void log_sum_exp(const float* x, std::int64_t rows, std::int64_t n, float* out,
                 cudaStream_t stream);
// One row's draw. The lists lie on the device; `uniform` is in [0, 1). arrived: 0, counted by the
// kernels.
struct SampleChoice {
  float temperature, top_p, min_p, repetition_penalty, presence_penalty, uniform;
  std::int32_t top_k, seen_count, suppressed_count;
  const std::int32_t *seen, *suppressed;
  std::uint32_t arrived;
};
// The last kernel that a choice needs; a batch runs as far as one of its rows needs.
enum class SampleStages : std::uint8_t { scale, weigh, gather };
SampleStages sample_stages(const SampleChoice& c, std::int64_t n);
// logits: [rows, n], modified. choices: on the device. out: [rows], the tokens. scratch: 16-byte
// aligned.
void sample(float* logits, std::int64_t rows, std::int64_t n, SampleChoice* choices,
            SampleStages last, void* scratch, std::int32_t* out, cudaStream_t stream);
std::size_t sample_scratch(std::int64_t rows, std::int64_t n);

}  // namespace dream_r::cuda
