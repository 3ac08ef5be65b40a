#pragma once
// Argument checks of the ops on query, key and value heads.
#include "ops/checks.h"
#include "ops/ops.h"

namespace dream_r::ops {

inline void check_heads(const char* op, Heads h) {
  DR_CHECK(h.q > 0 && h.kv > 0 && h.q % h.kv == 0 && h.dim > 0 && h.dim % 16 == 0)
      << op << ": " << h.q << " query and " << h.kv << " key heads of " << h.dim;
}

// qkv: f32 [T, (q + 2 kv) * dim]; returns T.
inline std::int64_t check_qkv(const char* op, const Tensor& qkv, Heads h) {
  check_rank(op, "qkv", qkv, DType::f32, 2);
  check_shape(op, "qkv", qkv, DType::f32, {qkv.dim(0), (std::int64_t{h.q} + 2 * h.kv) * h.dim});
  return qkv.dim(0);
}

inline void check_layer(const char* op, Heads h, const KvLayer& layer) {
  const auto& k = layer.k;
  DR_CHECK(k.dtype() == DType::f32 || k.dtype() == DType::bf16 || k.dtype() == DType::f16)
      << op << ": keys are " << name_of(k.dtype());
  DR_CHECK(k.shape().rank() == 4) << op << ": keys are " << k.shape().str();
  check_shape(op, "k", k, k.dtype(), {k.dim(0), h.kv, h.dim, kKvBlock});
  check_shape(op, "v", layer.v, k.dtype(), {k.dim(0), h.kv, kKvBlock, h.dim});
}

// What qk_norm_rope reads besides qkv.
inline void check_turn(const char* op, std::int64_t rows, int dim, const Tensor& q_norm,
                       const Tensor& k_norm, const Tensor& cos, const Tensor& sin) {
  check_shape(op, "cos", cos, DType::f32, {rows, dim / 2});
  check_shape(op, "sin", sin, DType::f32, {rows, dim / 2});
  if (q_norm.defined()) check_shape(op, "q_norm", q_norm, DType::f32, {dim});
  if (k_norm.defined()) check_shape(op, "k_norm", k_norm, DType::f32, {dim});
}

}  // namespace dream_r::ops
