// Host side of paged attention: which kernel a batch gets, how it is cut, what the kernels read.
#include <algorithm>
#include <cmath>

#include "ops/cuda/attention_rows.cuh"
#include "ops/cuda/launch.cuh"

namespace dream_r::cuda {
namespace {

int ceil_div(int a, int b) { return (a + b - 1) / b; }

// Blocks of threads that fit beside one another on a multiprocessor (shared memory: 68 KiB each on
// the 164 KiB of sm_80). With two, at least 64 KiB of the cache are under way on each, more than
// bandwidth times latency asks for, and the splits stay few.
constexpr int kResident = 2;

// Enough blocks of threads to fill the device, but no share of the keys below `least`.
int split_count(int blocks, int max_keys, int least, int multiprocessors) {
  const int wanted = kResident * multiprocessors / std::max(blocks, 1);
  return std::clamp(wanted, 1, std::max(1, ceil_div(max_keys, least)));
}

}  // namespace

int multiprocessors() {
  int device = 0, count = 0;
  check(cudaGetDevice(&device), "device");
  check(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device), "multiprocessors");
  return count;
}

AttentionPlan plan_attention(const AttentionBatch& b, int multiprocessors) {
  const bool tensor_cores = b.kv != DType::f32 && (b.heads.dim == 64 || b.heads.dim == 128);
  if (!tensor_cores) return {AttentionKernel::plain, 1, b.max_q_len, 1};
  const int pairs = b.max_q_len * (b.heads.q / b.heads.kv);
  const bool few = pairs <= kDecodePairs;
  AttentionPlan plan{few ? AttentionKernel::decode : AttentionKernel::chunk,
                     few           ? kDecodePairs
                     : pairs <= 64 ? 64
                                   : 128,
                     0, 1};
  plan.tiles = ceil_div(pairs, plan.tile_rows);
  // A share is worth starting from one KV block a warp (decode), four tiles of keys (chunk).
  plan.splits =
      split_count(b.count * b.heads.kv * plan.tiles, b.max_keys, few ? 64 : 256, multiprocessors);
  return plan;
}

std::size_t attention_scratch(const AttentionBatch& b, const AttentionPlan& plan) {
  if (plan.splits == 1) return 0;
  return static_cast<std::size_t>(plan.splits) * b.tokens * b.heads.q * (b.heads.dim + 2);
}

AttentionArgs attention_args(const AttentionBatch& b, int splits, float* scratch) {
  AttentionArgs a{};
  a.q = b.q;
  a.q_stride = b.q_stride;
  a.out = b.out;
  a.k = b.k;
  a.v = b.v;
  a.rows = b.rows;
  a.tokens = b.tokens;
  a.q_heads = b.heads.q;
  a.kv_heads = b.heads.kv;
  a.group = b.heads.q / b.heads.kv;
  a.dim = b.heads.dim;
  a.splits = splits;
  a.scale = static_cast<float>(1.4426950408889634 / std::sqrt(static_cast<double>(b.heads.dim)));
  a.partial = scratch;
  return a;
}

void attention(const AttentionBatch& b, const AttentionPlan& plan, float* scratch,
               cudaStream_t stream) {
  if (b.count == 0 || b.max_q_len == 0) return;
  if (plan.kernel == AttentionKernel::plain) return attention_plain(b, stream);
  if (plan.kernel == AttentionKernel::decode) attention_decode(b, plan, scratch, stream);
  if (plan.kernel == AttentionKernel::chunk) attention_chunk(b, plan, scratch, stream);
  if (plan.splits > 1) attention_reduce(b, plan, scratch, stream);
}

}  // namespace dream_r::cuda
