#include <cmath>
#include <cstring>

#include "ops/cpu/kernels.h"
#include "ops/cuda/kernels.h"
#include "ops/dispatch.h"
#include "ops/head_checks.h"

namespace dream_r::ops {
namespace {

template <class T>
void write_token(const float* k, const float* v, Heads h, std::int64_t slot, T* keys, T* values) {
  const std::int64_t block = slot / kKvBlock, at = slot % kKvBlock, size = h.dim * kKvBlock;
  for (int head = 0; head < h.kv; ++head, k += h.dim, v += h.dim) {
    T* to_k = keys + (block * h.kv + head) * size + at;
    T* to_v = values + (block * h.kv + head) * size + at * h.dim;
    for (int d = 0; d < h.dim; ++d) {
      to_k[d * kKvBlock] = T(k[d]);
      to_v[d] = T(v[d]);
    }
  }
}

std::int64_t blocks_of(std::int64_t tokens) { return (tokens + kKvBlock - 1) / kKvBlock; }

// Returns the (token, head) pairs times keys of all rows, for the cost estimate.
double check_rows(const char* op, std::span<const AttentionRow> rows, std::int64_t tokens,
                  std::int64_t blocks) {
  double pairs = 0;
  for (const auto& r : rows) {
    DR_CHECK(r.q_begin >= 0 && r.q_len >= 0 && r.q_begin + std::int64_t{r.q_len} <= tokens)
        << op << ": row of tokens [" << r.q_begin << ", +" << r.q_len << ") in a batch of "
        << tokens;
    DR_CHECK(r.prefix_len >= 0 && r.own_begin >= 0)
        << op << ": prefix_len " << r.prefix_len << ", own_begin " << r.own_begin;
    if (r.q_len == 0) continue;
    const std::int64_t own = std::int64_t{r.own_begin} + r.q_len;
    check_ids(op, "prefix_table", r.prefix_table, blocks_of(r.prefix_len), blocks);
    check_ids(op, "own_table", r.own_table, blocks_of(own), blocks);
    pairs += static_cast<double>(r.q_len) * static_cast<double>(r.prefix_len + own);
  }
  return pairs;
}

std::int64_t units_of(const AttentionRow& r, Heads h) {
  const int most = cpu::unit_rows(h.dim);
  return (std::int64_t{r.q_len} * (h.q / h.kv) + most - 1) / most;
}

}  // namespace

void kv_write(Stream& s, const Tensor& qkv, Heads heads, const Tensor& slot, KvLayer layer) {
  const char* op = "kv_write";
  check_heads(op, heads);
  check_layer(op, heads, layer);
  const std::int64_t rows = check_qkv(op, qkv, heads), width = qkv.dim(1);
  check_shape(op, "slot", slot, DType::i32, {rows});
  check_device(op, s, qkv, slot, layer.k, layer.v);
  if (on_cuda(s, [&](auto stream) {
        cuda::kv_write(qkv.data<float>(), heads.q, heads.kv, heads.dim, slot.data<std::int32_t>(),
                       rows, layer.k.dtype(), layer.k.data<void>(), layer.v.data<void>(), stream);
      }))
    return;
  check_cpu_dtype(op, layer.k.dtype());
  const auto* at = slot.data<std::int32_t>();
  check_ids(op, "slot", at, rows, layer.k.dim(0) * kKvBlock);
  const double ns = 1.3 * heads.kv * heads.dim;
  s.parallel_for(rows, grain_for(ns), [&](auto begin, auto end) {
    for (auto t = begin; t < end; ++t) {
      const float* k = qkv.data<float>() + t * width + heads.q * heads.dim;
      const float* v = k + heads.kv * heads.dim;
      if (layer.k.dtype() == DType::f32)
        write_token(k, v, heads, at[t], layer.k.data<float>(), layer.v.data<float>());
      else
        write_token(k, v, heads, at[t], layer.k.data<bf16>(), layer.v.data<bf16>());
    }
  });
}

namespace {

struct Paged {
  const float* q;
  std::int64_t q_width;
  float* out;
  Heads heads;
  KvLayer layer;
};

cpu::AttentionUnit unit_of(const Paged& p, const AttentionRow& r, int kv_head, std::int64_t index) {
  const int group = p.heads.q / p.heads.kv, dim = p.heads.dim;
  const std::int64_t head_offset = std::int64_t{kv_head} * group * dim;
  const std::int64_t block = std::int64_t{dim} * kKvBlock;
  const std::size_t kv_offset =
      static_cast<std::size_t>(kv_head * block) * size_of(p.layer.k.dtype());
  cpu::AttentionUnit u{};
  u.q = p.q + r.q_begin * p.q_width + head_offset;
  u.q_stride = p.q_width;
  u.out_stride = std::int64_t{p.heads.q} * dim;
  u.out = p.out + r.q_begin * u.out_stride + head_offset;
  const std::int64_t most = cpu::unit_rows(dim);
  u.first = index * most;
  u.count = static_cast<int>(std::min(most, std::int64_t{r.q_len} * group - u.first));
  u.group = group;
  u.dim = dim;
  u.scale = 1.0f / std::sqrt(static_cast<float>(dim));
  u.k = p.layer.k.data<std::byte>() + kv_offset;
  u.v = p.layer.v.data<std::byte>() + kv_offset;
  u.block_stride = p.heads.kv * block;
  u.prefix_table = r.prefix_table;
  u.prefix_len = r.prefix_len;
  u.own_table = r.own_table;
  u.own_begin = r.own_begin;
  return u;
}

cuda::AttentionBatch cuda_batch(const Tensor& qkv, Heads heads, const KvLayer& layer, Tensor out) {
  cuda::AttentionBatch b{};
  b.heads = heads;
  b.q = qkv.data<float>();
  b.q_stride = qkv.dim(1);
  b.out = out.data<float>();
  b.k = layer.k.data<std::byte>();
  b.v = layer.v.data<std::byte>();
  b.kv = layer.k.dtype();
  b.tokens = static_cast<int>(qkv.dim(0));
  return b;
}

}  // namespace

void attention(Stream& s, const Tensor& qkv, Heads heads, KvLayer layer, const AttentionRows& batch,
               Tensor out) {
  const char* op = "attention";
  check_heads(op, heads);
  check_layer(op, heads, layer);
  const std::int64_t tokens = check_qkv(op, qkv, heads), width = qkv.dim(1);
  check_shape(op, "out", out, DType::f32, {tokens, heads.q * heads.dim});
  const auto rows = batch.rows;
  const double pairs = batch.device ? 0 : check_rows(op, rows, tokens, layer.k.dim(0));
  check_device(op, s, qkv, layer.k, layer.v, out);
  if (on_cuda(s, [&](auto) {
        DR_CHECK(heads.dim <= cuda::kMaxHeadDim)
            << op << ": heads of " << heads.dim << ", at most " << cuda::kMaxHeadDim << " on CUDA";
        cuda::attention(s, cuda_batch(qkv, heads, layer, out), batch);
      }))
    return;
  check_cpu_dtype(op, layer.k.dtype());
  std::int64_t units = 0;
  for (const auto& r : rows) units += units_of(r, heads);
  const std::int64_t all = units * heads.kv;
  if (all == 0) return;
  const double ns = pairs * heads.q * (0.05 * heads.dim + 1.0) / static_cast<double>(all);
  const Paged p{qkv.data<float>(), width, out.data<float>(), heads, layer};
  const auto& kernel = cpu::kernels();
  const auto fn = layer.k.dtype() == DType::f32 ? kernel.attention_f32 : kernel.attention_bf16;
  // Head-major, so that the threads' shares of a causal prefill weigh the same.
  s.parallel_for(all, grain_for(ns), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      std::int64_t index = i % units;
      const AttentionRow* r = rows.data();
      for (; index >= units_of(*r, heads); ++r) index -= units_of(*r, heads);
      fn(unit_of(p, *r, static_cast<int>(i / units), index));
    }
  });
}

namespace {

// As many tensors and copies a launch as its parameters hold.
template <class CudaStream>
void copy_on_cuda(std::span<const KvLayer> layers, std::span<const BlockCopy> copies,
                  std::int64_t block_bytes, CudaStream stream) {
  constexpr std::size_t kLayers = cuda::BlockCopies::kMostTensors / 2;
  for (std::size_t l = 0; l < layers.size(); l += kLayers) {
    cuda::BlockCopies all;
    for (const KvLayer& layer : layers.subspan(l, std::min(kLayers, layers.size() - l))) {
      all.data[all.tensors++] = layer.k.data<void>();
      all.data[all.tensors++] = layer.v.data<void>();
    }
    for (const BlockCopy& c : copies) {
      all.copies[all.count++] = {c.src, c.dst};
      if (all.count < cuda::BlockCopies::kMostCopies && &c != &copies.back()) continue;
      cuda::copy_blocks(all, block_bytes, stream);
      all.count = 0;
    }
  }
}

}  // namespace

void copy_blocks(Stream& s, std::span<const KvLayer> layers, std::span<const BlockCopy> copies) {
  const char* op = "copy_blocks";
  for (const auto& layer : layers)
    for (const auto& c : copies)
      DR_CHECK(layer.k.shape().rank() == 4 && layer.k.numel() == layer.v.numel() && c.src >= 0 &&
               c.dst >= 0 && c.src < layer.k.dim(0) && c.dst < layer.k.dim(0))
          << op << ": block " << c.src << " -> " << c.dst << " of " << layer.k.shape().str();
  if (layers.empty() || copies.empty()) return;
  const std::size_t bytes = layers[0].k.nbytes() / static_cast<std::size_t>(layers[0].k.dim(0));
  for (const auto& layer : layers) check_device(op, s, layer.k, layer.v);
  if (on_cuda(s, [&](auto stream) {
        copy_on_cuda(layers, copies, static_cast<std::int64_t>(bytes), stream);
      }))
    return;
  const auto count = static_cast<std::int64_t>(layers.size() * copies.size());
  s.parallel_for(count, grain_for(0.2 * static_cast<double>(bytes)), [&](auto begin, auto end) {
    for (auto i = begin; i < end; ++i) {
      const auto& layer = layers[static_cast<std::size_t>(i) / copies.size()];
      const auto& c = copies[static_cast<std::size_t>(i) % copies.size()];
      for (const Tensor* t : {&layer.k, &layer.v}) {
        const std::size_t block = t->nbytes() / static_cast<std::size_t>(t->dim(0));
        auto* data = t->data<std::byte>();
        std::memcpy(data + static_cast<std::size_t>(c.dst) * block,
                    data + static_cast<std::size_t>(c.src) * block, block);
      }
    }
  });
}

}  // namespace dream_r::ops
