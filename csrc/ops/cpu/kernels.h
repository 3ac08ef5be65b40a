#pragma once
// The CPU kernels of one instruction set, as a table of functions over raw pointers. The source in
// *.inl is written once over a 16-lane vector `V` and compiled once for each instruction set;
// AMX is the AVX-512 table with linear kernels of its own for bf16 and w4. Only declarations here:
// an inline function seen by several of those units could be merged by the linker into the wrong
// instruction set's copy.
#include <cstdint>
#include <vector>

namespace dream_r::cpu {

// i16: how many of k share a scale (fewer sums meet one in the larger group), and the largest
// number: a group's products of two sum to less than 2^31.
constexpr int kI16Small = 32, kI16Large = 64;
constexpr int i16_group(std::int64_t k) { return k % kI16Large ? kI16Small : kI16Large; }
constexpr float i16_most(std::int64_t group) { return group == kI16Large ? 5792 : 8191; }

// Panels [panel_begin, panel_end) of out[rows, n] = x W^T + bias. `steps` of 64 bytes in a panel: k
// for f32, ceil(k / 2) pairs for bf16, lines for w4 and i16. x: rows as the kernel's LinearKernel
// says, `x_stride` bytes apart.
struct LinearArgs {
  const void* x;
  std::int64_t x_stride;
  std::int64_t rows;
  const void* w;
  const float* bias;  // may be null
  float* out;
  std::int64_t n;
  std::int64_t steps;
  std::int64_t group;  // w4, i16: elements of k that share a scale
  std::int64_t panel_begin, panel_end;
};

// A row of x for `pack`: its elements, padded to a multiple, and those of a group (w4, else 0).
struct RowShape {
  std::int64_t k, padded, group;
};

// A linear kernel and the activations it reads: f32 as they come (`pack` is null), or rows that
// `pack` rounded to bf16 and padded with zeros to a multiple of `x_multiple` elements of `x_bytes`
// bytes: 4 for FMA (widened once here and not at every use), 2 for tiles (in the order that the
// kernel wants). w4 by FMA keeps f32 and puts x_head elements before every group
// (linear_w4.inl), i16 makes whole numbers of 2 bytes and puts x_head behind (linear_i16.inl).
struct LinearKernel {
  void (*run)(const LinearArgs&);
  void (*pack)(const float* x, const RowShape&, void* out);
  int x_multiple, x_bytes;
  int x_head;           // elements that `pack` adds to every group
  int tile_rows;        // rows that a register tile takes at most
  double madds_per_ns;  // about, of one core
};

// Flat rows [first, first + count) of one run and one kv head: flat row i is query token i / group
// and head i % group of the kv head's group. count <= unit_rows(dim): queries and sums of a unit
// stay in the first-level cache beside a step's keys and values.
constexpr int kUnitRows = 64;
constexpr int unit_rows(int dim) {
  const int fit = 24 * 1024 / (dim * 8) / 4 * 4;
  return fit < 16 ? 16 : fit > kUnitRows ? kUnitRows : fit;
}
struct AttentionUnit {
  const float* q;  // first query token, first head of the group
  std::int64_t q_stride;
  float* out;  // as q
  std::int64_t out_stride;
  std::int64_t first;
  int count;
  int group;
  int dim;
  float scale;
  const void* k;  // block 0, this kv head
  const void* v;
  std::int64_t block_stride;  // elements between blocks
  const std::int32_t* prefix_table;
  std::int32_t prefix_len;
  const std::int32_t* own_table;
  std::int32_t own_begin;
};

// Query rows [first, first + count) of one segment and one head against its keys [0, keys), packed
// by pack_segment into packed_keys and packed_values floats. count <= unit_rows(dim).
constexpr int kMaxSegmentDim = 192;
constexpr std::int64_t packed_keys(std::int64_t keys, int dim) {
  return (keys + 15) / 16 * 16 * dim;
}
constexpr std::int64_t packed_values(std::int64_t keys, int dim) {
  return keys * ((dim + 15) / 16 * 16);
}
struct SegmentUnit {
  const float *q, *k, *v;  // row 0 of the segment, this head
  std::int64_t stride;     // between tokens, of q, k and v
  float* out;
  std::int64_t out_stride;
  std::int64_t first, keys;
  int count;
  int dim;
  float scale;
};

struct RopeArgs {
  float* qkv;  // [rows, (q + 2 kv) * dim]
  std::int64_t rows;
  int q, kv, dim;
  const float *q_norm, *k_norm;  // may be null
  float eps;
  const float *cos, *sin;  // [rows, dim / 2]
};

struct Kernels {
  const char* name;
  void (*rms_norm)(const float* x, const float* w, float eps, std::int64_t rows, std::int64_t h,
                   float* out);
  void (*add_rms_norm)(float* residual, const float* delta, const float* w, float eps,
                       std::int64_t rows, std::int64_t h, float* out);
  void (*layer_norm)(const float* x, const float* w, const float* b, float eps, std::int64_t rows,
                     std::int64_t h, float* out);
  void (*silu_mul)(const float* gate_up, std::int64_t rows, std::int64_t f, float* out);
  void (*gelu_exact)(float* x, std::int64_t n);
  void (*gelu_tanh)(float* x, std::int64_t n);
  void (*add)(float* a, const float* b, std::int64_t n);
  // out = sum over j < 4 of weight[j] * rows[j], of h elements.
  void (*mix4)(const float* const* rows, const float* weight, std::int64_t h, float* out);
  LinearKernel linear_f32, linear_bf16, linear_w4, linear_i16;
  void (*qk_norm_rope)(const RopeArgs&);
  void (*attention_f32)(const AttentionUnit&);
  void (*attention_bf16)(const AttentionUnit&);
  void (*pack_segment)(const SegmentUnit&, float* keys, float* values);
  void (*segment_attention)(const SegmentUnit&, const float* keys, const float* values);
  // NaN elements count as -inf in the three below.
  float (*max)(const float* x, std::int64_t n);
  std::int64_t (*argmax)(const float* x, std::int64_t n);        // lowest index among equals
  double (*exp_sum)(const float* x, std::int64_t n, float max);  // sum of exp(x - max)
  void (*exp_of)(const float* x, std::int64_t n, float max, float* out);  // exp(x - max)
};

extern const Kernels kPortable;
#if defined(__x86_64__)
extern const Kernels kAvx2;
extern const Kernels kAvx512;
extern const LinearKernel kAmxLinearBf16, kAmxLinearW4;
// True if processor and system have AMX for bf16 and the system permits it to this process, which
// the first call asks for.
bool amx_permitted();
#endif

// `base` with other linear kernels for bf16 and w4 weights.
Kernels with_linear(const Kernels& base, const char* name, const LinearKernel& bf16,
                    const LinearKernel& w4);

// The tables that this machine runs, best last.
const std::vector<const Kernels*>& isa_tables();

// The table for this machine, or the one an IsaScope of the calling thread names.
const Kernels& kernels();

// For tests: the ops called by this thread use `table` while the scope lives.
class IsaScope {
 public:
  explicit IsaScope(const Kernels& table);
  ~IsaScope();
  IsaScope(const IsaScope&) = delete;
  IsaScope& operator=(const IsaScope&) = delete;

 private:
  const Kernels* before_;
};

}  // namespace dream_r::cpu
