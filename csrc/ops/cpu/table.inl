// Included by kernels_<isa>.cc after its vec_<isa>.h, with DR_TABLE and DR_NAME defined.
#include "ops/cpu/kernels.h"

namespace dream_r::cpu {
namespace {
#include "ops/cpu/math.inl"
// Order matters: each may use what stands above it.
#include "ops/cpu/attention.inl"
#include "ops/cpu/linear.inl"
#include "ops/cpu/linear_blocks.inl"
#include "ops/cpu/linear_i16.inl"
#include "ops/cpu/linear_w4.inl"
#include "ops/cpu/reduce.inl"
#include "ops/cpu/rows.inl"
#include "ops/cpu/segment.inl"
}  // namespace

extern const Kernels DR_TABLE;
const Kernels DR_TABLE = {
    .name = DR_NAME,
    .rms_norm = rms_norm,
    .add_rms_norm = add_rms_norm,
    .layer_norm = layer_norm,
    .silu_mul = silu_mul,
    .gelu_exact = gelu_exact,
    .gelu_tanh = gelu_tanh,
    .add = add,
    .mix4 = mix4,
    .linear_f32 = {linear<F32Format>, nullptr, 1, 4, 0, kTileRows, kMaddsPerNs},
    .linear_bf16 = {linear<Bf16Format>, bf16_values, 2, 4, 0, kTileRowsBf16, kMaddsPerNs},
    .linear_w4 = {linear<W4Format>, w4_values, 1, 4, kW4Head, kTileRows, kMaddsPerNs},
    .linear_i16 = {linear<I16Format>, i16_values, kI16Small, 2, 2, kTileRowsI16,
                   kI16Rate* kMaddsPerNs},
    .qk_norm_rope = qk_norm_rope,
    .attention_f32 = attention<float>,
    .attention_bf16 = attention<std::uint16_t>,
    .pack_segment = pack_segment,
    .segment_attention = segment_attention,
    .max = max_of,
    .argmax = argmax,
    .exp_sum = exp_sum,
    .exp_of = exp_of,
};

}  // namespace dream_r::cpu
