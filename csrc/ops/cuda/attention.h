#pragma once
// Paged attention and attention inside segments on the GPU: what the launchers take. Plain C++.
#include <cstddef>
#include <cstdint>

#include "core/cuda.h"
#include "ops/ops.h"

namespace dream_r::cuda {

// One call of `attention` (ops.h has the semantics). Everything that changes from one replay of a
// CUDA graph to the next (rows, lengths, block ids) lies in device memory; the host gives bounds.
struct AttentionBatch {
  ops::Heads heads;  // dim <= kMaxHeadDim
  const float* q;    // first query head of token 0; tokens are q_stride floats apart
  std::int64_t q_stride;
  float* out;                     // [tokens, heads.q * heads.dim]; 16-byte aligned
  const void *k, *v;              // the layer's cache, 16-byte aligned
  DType kv;                       // its elements: f32, bf16 or f16
  const ops::AttentionRow* rows;  // device: [count], their tables device memory too. q_len may be 0
  int count;
  // Bounds over the rows: of q_begin + q_len, of q_len, of prefix_len + own_begin + q_len.
  int tokens, max_q_len, max_keys;
};

constexpr int kMaxHeadDim = 256;
// (token, head of the group) pairs of a row that decode takes
constexpr int kDecodePairs = ops::kFewPairs;

// Which kernel a batch gets and how it is cut. Decided from the bounds alone, so that a captured
// graph stays valid while its rows grow up to them.
enum class AttentionKernel : std::uint8_t { plain, decode, chunk };
struct AttentionPlan {
  AttentionKernel kernel;
  int tile_rows;  // (token, head of the group) pairs of one block of threads
  int tiles;      // of the longest row
  int splits;     // of a row's keys
};
int multiprocessors();  // of the calling thread's device
AttentionPlan plan_attention(const AttentionBatch& b, int multiprocessors);

// Floats of scratch that attention() needs; 0 when the keys are not split.
std::size_t attention_scratch(const AttentionBatch& b, const AttentionPlan& plan);

// Accuracy. f32 cache, or a head dimension other than 64 and 128: all f32. bf16 (f16) cache of 64
// or 128: queries and softmax numerators are rounded to bf16 (f16: finite, numerators below 2^-14
// to multiples of 2^-24) for the tensor cores, scores, sums and outputs are f32.
void attention(const AttentionBatch& b, const AttentionPlan& plan, float* scratch,
               cudaStream_t stream);
// The same for all rows of a batch: sets what of `b` speaks of rows. Those that are in host memory
// are uploaded, in the stream's order, and have been read on return.
void attention(Stream& s, const AttentionBatch& b, const ops::AttentionRows& rows);

// The steps of the first.
void attention_plain(const AttentionBatch& b, cudaStream_t stream);
void attention_decode(const AttentionBatch& b, const AttentionPlan& plan, float* scratch,
                      cudaStream_t stream);
void attention_chunk(const AttentionBatch& b, const AttentionPlan& plan, float* scratch,
                     cudaStream_t stream);
void attention_reduce(const AttentionBatch& b, const AttentionPlan& plan, float* scratch,
                      cudaStream_t stream);

constexpr int kMaxSegmentDim = 128;
struct SegmentBatch {
  const float* qkv;           // [tokens, 3 * heads * dim], 16-byte aligned
  float* out;                 // [tokens, heads * dim]
  int tokens, heads, dim;     // dim % 8 == 0, dim <= kMaxSegmentDim
  const std::int32_t* cu;     // device: [segments + 1]
  int segments, max_segment;  // max_segment: bound on a segment's length
  ops::Products products;
};
// Bytes of scratch: keys and values packed for the tensor cores.
std::size_t segment_scratch(const SegmentBatch& b);
void segment_attention(const SegmentBatch& b, void* scratch, cudaStream_t stream);
// The same for segments in host memory; sets what of `b` speaks of them.
void segment_attention(Stream& s, SegmentBatch b, std::span<const std::int32_t> cu);

}  // namespace dream_r::cuda
