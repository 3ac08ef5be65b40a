#pragma once
// THE list of ops. Every op takes its Stream first, views next and its outputs last; it allocates
// nothing, and checks shapes and dtypes before it computes (Error naming the op and the shapes).
// Activations are f32; weights and KV are f32, bf16 or, on CUDA, f16 (an Error on the CPU); weights
// on the CPU also i16.
// T = tokens (rows) in the batch.
//
// An op runs where its Stream is, and all its tensors must lie there; on a CUDA device it returns
// when it is issued, and indices that lie there (ids, slots, ...) are not range-checked.
//
// Batch invariance (CPU): every output element has ONE reduction order, whatever the number of
// rows, the thread count or the split of a prompt into chunks. So speculative and plain decoding of
// a model agree bit for bit, in f32, bf16 and i16.
#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "core/stream.h"
#include "core/tensor.h"
#include "ops/attention_rows.h"
#include "ops/linear_weight.h"

namespace dream_r::ops {

// ---- between devices ---------------------------------------------------------------------------
// to = from, equal shapes and dtypes, each on the CPU or on a CUDA device; the stream is on one of
// the latter where there is one. A copy to the CPU has ended on return; one from the CPU has read
// its source.
void copy(Stream& s, const Tensor& from, Tensor to);
// `from` on `device`: itself where it is there already or undefined, else a copy in memory of its
// own.
Tensor copy_to(Stream& s, const Tensor& from, Device device);

// ---- rows ------------------------------------------------------------------------------------
// out[t] = row ids[t] of table (a packed LinearWeight [vocab, h], so tied heads are stored once).
// ids: i32 [T] in [0, vocab). out: f32 [T, h].
void embedding(Stream& s, const Tensor& ids, const LinearWeight& table, Tensor out);
// out[i] = x[index[i]]. x: f32 [T, h]; index: i32 [R]; out: f32 [R, h].
void gather_rows(Stream& s, const Tensor& x, const Tensor& index, Tensor out);
// x[index[i]] += y[i]. The indices are distinct. (DeepStack: visual features added at image
// tokens.)
void scatter_add_rows(Stream& s, const Tensor& y, const Tensor& index, Tensor x);
// x[index[i]] = y[i]. The indices are distinct. (Visual features put at image tokens.)
void scatter_rows(Stream& s, const Tensor& y, const Tensor& index, Tensor x);
// out[t] = sum over j < 4 of weight[t, j] * table[index[t, j]]: the interpolated position embedding
// of the vision tower. table f32 [P, h], index i32 [T, 4], weight f32 [T, 4].
void bilinear_rows(Stream& s, const Tensor& table, const Tensor& index, const Tensor& weight,
                   Tensor out);

// ---- norms and activations -------------------------------------------------------------------
// out = x / sqrt(mean(x^2) + eps) * w. x, out: f32 [T, h] (may be the same); w: f32 [h].
void rms_norm(Stream& s, const Tensor& x, const Tensor& w, float eps, Tensor out);
// residual += delta; out = rms_norm(residual). All f32 [T, h].
void add_rms_norm(Stream& s, Tensor residual, const Tensor& delta, const Tensor& w, float eps,
                  Tensor out);
// out = (x - mean) / sqrt(var + eps) * w + b.
void layer_norm(Stream& s, const Tensor& x, const Tensor& w, const Tensor& b, float eps,
                Tensor out);
// out[t, i] = silu(gate_up[t, i]) * gate_up[t, f + i]. gate_up: f32 [T, 2f]; out: f32 [T, f].
void silu_mul(Stream& s, const Tensor& gate_up, Tensor out);
enum class Gelu : std::uint8_t { exact, tanh };
// In place, any shape.
void gelu(Stream& s, Tensor x, Gelu kind);
// a += b, equal shapes.
void add(Stream& s, Tensor a, const Tensor& b);

// ---- linear ----------------------------------------------------------------------------------
// out[t, j] = sum_i x[t, i] * W[j, i] (+ bias[j]). x: f32 [T, k]; out: f32 [T, n].
// bf16 weights: x is rounded to bf16 first (nearest even) and products accumulate in f32.
// f16 weights (CUDA): the same in f16; an x beyond 65504 becomes that and not inf.
// i16 weights (CPU): each group of x is rounded to whole numbers by its largest element, products
// sum exactly within a group and in f32 over groups (cpu/linear_i16.inl). A row with what is no
// finite number becomes NaN. w4 weights: on the CPU x stays f32, products are summed group by
// group, and each sum meets its s once (cpu/linear_w4.inl): within f32 roundings of the product
// with (q - z) * s, not its bits. By tiles of AMX (cpu_isa() "amx") x is rounded to bf16 too
// (cpu/linear_tiles_w4.inl). On CUDA x is rounded to bf16, the weights are not (but by cuBLASLt,
// which where it is found takes more than 256 rows: there each weight is rounded to bf16).
void linear(Stream& s, const Tensor& x, const LinearWeight& w, Tensor out);

// Made-up weights, the same bits on every device: each panel of w is runs of kFillRun words of
// `table` (ops/fill.h), every run from an offset that follows from `key` and its place; w4: each
// group's head is `head`. Zeros where a panel holds no element. w.bias stays. table: i32
// [kFillOffsets + kFillRun], words of w's format. On CUDA kernels read weights early: wait() before
// an op reads w.
void fill_linear(Stream& s, const Tensor& table, std::uint64_t key, std::uint32_t head,
                 LinearWeight w);

// ---- mixture of experts ----------------------------------------------------------------------
// The k experts of each token: softmax in f32 over the logits of all E, the k largest in falling
// order (among equals the lowest expert; NaN counts as -inf). `renormalise`: their weights sum to
// 1. logits: f32 [T, E]; expert: i32 [T, k]; weight: f32 [T, k]; 1 <= k <= E.
void moe_route(Stream& s, const Tensor& logits, bool renormalise, Tensor expert, Tensor weight);
// Places of the T * k pairs (t, j) sorted by expert, tokens rising inside one: pairs [begin[e],
// begin[e + 1]) are expert e's. expert: i32 [T, k] in [0, E); token: i32 [T * k], the token of
// each place; place: i32 [T * k], where pair t * k + j went; begin: i32 [E + 1].
void moe_group(Stream& s, const Tensor& expert, Tensor token, Tensor place, Tensor begin);
// Rows [begin[e], begin[e + 1]) of out = linear of those of x and experts[e], for all e: on CUDA
// one launch, in which every expert's weights are read once a 32 rows. The experts have one shape
// and format and no bias. begin: i32 [E + 1], rising from 0 to T, where the stream is; x: f32 [T,
// k]; out: f32 [T, n].
void grouped_linear(Stream& s, const Tensor& x, std::span<const LinearWeight> experts,
                    const Tensor& begin, Tensor out);
// out[t] = sum over j of weight[t, j] * y[place[t * k + j]], j rising: an order that does not
// depend on the other tokens. y: f32 [T * k, h]; place: i32 [T * k]; weight: f32 [T, k]; out: f32
// [T, h].
void moe_combine(Stream& s, const Tensor& y, const Tensor& place, const Tensor& weight, Tensor out);

// ---- rotary ----------------------------------------------------------------------------------
// M-RoPE: pair i of the head's d/2 frequencies turns by the axis that `sections` assigns to it.
//   interleaved (Qwen3-VL)   3j+1 -> height for j < sections[1], 3j+2 -> width for j < sections[2],
//                            else time
//   chunked (Qwen2.5-VL)     the first sections[0] pairs time, the next sections[1] height, the
//                            rest width
// positions: i32 [T, 3] (t, h, w); cos, sin: f32 [T, d/2]; inv_freq[i] = theta^(-2i/d), angles in
// radians.
enum class MropeLayout : std::uint8_t { interleaved, chunked };
void mrope_table(Stream& s, const Tensor& positions, std::span<const float> inv_freq,
                 MropeLayout layout, std::array<int, 3> sections, Tensor cos, Tensor sin);
struct Heads {
  int q;    // query heads
  int kv;   // key/value heads; q % kv == 0
  int dim;  // elements of a head, a multiple of 16
};
// RMS-norms each query and key head (weights f32 [dim]; undefined = no norm), then rotates halves
// (x1, x2) -> (x1 cos - x2 sin, x2 cos + x1 sin). qkv: f32 [T, (q + 2 kv) * dim], in place, V
// untouched.
void qk_norm_rope(Stream& s, Tensor qkv, Heads heads, const Tensor& q_norm, const Tensor& k_norm,
                  float eps, const Tensor& cos, const Tensor& sin);
// The same rotation for the vision tower, whose heads may be 72 wide: no norms, dim a multiple
// of 2. qkv: f32 [T, 3 * heads * dim] in place, V untouched; cos, sin: f32 [T, dim/2].
void rotate_half(Stream& s, Tensor qkv, int heads, int dim, const Tensor& cos, const Tensor& sin);

// ---- attention -------------------------------------------------------------------------------
constexpr int kKvBlock = 16;  // tokens of a KV block
// One layer of the paged cache. k: [blocks, kv, dim, 16] (a block's keys transposed, so 16 scores
// come of one broadcast-multiply per element), v: [blocks, kv, 16, dim]; both f32, bf16 or f16.
struct KvLayer {
  Tensor k, v;
};
// Writes K and V of token t to slot[t] = block * 16 + offset, rounded to the layer's type (f16: as
// x of linear). slot: i32 [T].
void kv_write(Stream& s, const Tensor& qkv, Heads heads, const Tensor& slot, KvLayer layer);
// qk_norm_rope, then kv_write, on CUDA in one launch. Afterwards the queries of qkv are turned and
// the layer has keys and values; what qkv's keys are is not said.
void qk_norm_rope_write(Stream& s, Tensor qkv, Heads heads, const Tensor& q_norm,
                        const Tensor& k_norm, float eps, const Tensor& cos, const Tensor& sin,
                        const Tensor& slot, KvLayer layer);
// softmax(q k^T / sqrt(dim)) v over the paged cache; online, in table order.
// qkv: f32 [T, (q + 2 kv) * dim] (only q is read); out: f32 [T, q * dim]. Rows that lie on a device
// (AttentionUpload) are not checked. CUDA: dim at most 256; with a bf16 (f16) cache and dim 64 or
// 128, q and softmax numerators are rounded to bf16 (f16); the order of sums depends on the batch.
void attention(Stream& s, const Tensor& qkv, Heads heads, KvLayer layer, const AttentionRows& rows,
               Tensor out);
// What a GPU's tensor cores may make of the factors of a product that no stored type decides. f32:
// the result is as accurate as f32 arithmetic (on the GPU at a sixth of the other's rate); bf16:
// q, k, v and softmax numerators are rounded to bf16; f16: to f16, within its finite range. The CPU
// computes in f32 always.
enum class Products : std::uint8_t { f32, bf16, f16 };
inline Products products_of(const LinearWeight& w) {
  return w.format == WeightFormat::f32   ? Products::f32
         : w.format == WeightFormat::f16 ? Products::f16
                                         : Products::bf16;
}
// Non-causal attention inside each segment [cu[i], cu[i+1]), `cu` in host memory. qkv: f32 [T, 3 *
// heads * dim], out: f32 [T, heads * dim]. (Vision tower. dim is any multiple of 8, at most 128 on
// CUDA and 192 on the CPU.)
void segment_attention(Stream& s, const Tensor& qkv, int heads, int dim,
                       std::span<const std::int32_t> cu, Products products, Tensor out);
// Copies `n` whole blocks of every layer given: dst block <- src block (copy-on-write of a fork).
struct BlockCopy {
  std::int32_t src, dst;
};
void copy_blocks(Stream& s, std::span<const KvLayer> layers, std::span<const BlockCopy> copies);

// ---- heads and sampling ----------------------------------------------------------------------
// log(sum(exp(x))) of each row. Exponentials in f32 (2e-7 relative), summed in f64 beyond 256 of
// them. NaN counts as -inf. x: f32 [R, n]; out: f32 [R].
void log_sum_exp(Stream& s, const Tensor& x, Tensor out);

struct SamplingParams {
  float temperature = 0.0f;  // 0 = greedy
  int top_k = 0;             // 0 = off
  float top_p = 1.0f;
  float min_p = 0.0f;
  float repetition_penalty = 1.0f;
  float presence_penalty = 0.0f;
};
// Counter-based randomness: a value depends on the key alone, never on the order of draws.
struct SampleKey {
  std::uint64_t seed = 0;
  std::uint64_t request = 0;
  std::uint32_t step = 0;
  std::uint32_t author = 0;  // 0 draft, 1 target
  std::uint32_t token = 0;   // below 2^31
};
float uniform(const SampleKey& key);  // Philox4x32-10, in [0, 1)
// Chooses a token from one row of logits (modified in place). Order of the filters, as
// transformers' generate: penalties (over the set of `seen` ids), suppressed ids, temperature,
// top-k, top-p, min-p. Greedy takes the lowest id among equals. NaN logits count as -inf. logits:
// f32 [vocab].
std::int32_t sample(std::span<float> logits, const SamplingParams& params,
                    std::span<const std::int32_t> seen, std::span<const std::int32_t> suppressed,
                    const SampleKey& key);
// The same for every row of logits, f32 [R, vocab], modified in place: out[i] is row i's token,
// known on return. A CUDA device gives the CPU's tokens, but where the draw falls on an edge that
// their exponentials round differently.
struct SampleRow {
  SamplingParams params;
  std::span<const std::int32_t> seen, suppressed;
  SampleKey key;
};
void sample_rows(Stream& s, Tensor logits, std::span<const SampleRow> rows,
                 std::span<std::int32_t> out);

}  // namespace dream_r::ops

namespace dream_r {
// Which kernels the CPU dispatch picked: "portable", "avx2", "avx512", "amx". The environment
// variable DREAM_R_ISA names another one (for tests and comparison).
const char* cpu_isa();
// Those that this machine runs, best last.
std::vector<std::string> cpu_isas();
// In which `device` multiplies weights fastest: bf16, or i16 on CPUs without products of bf16 whose
// whole-number ones do more a cycle.
DType fastest_dtype(Device device);
}  // namespace dream_r
