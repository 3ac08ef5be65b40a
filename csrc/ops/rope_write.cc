#include "ops/cuda/kernels.h"
#include "ops/dispatch.h"
#include "ops/head_checks.h"

namespace dream_r::ops {

void qk_norm_rope_write(Stream& s, Tensor qkv, Heads heads, const Tensor& q_norm,
                        const Tensor& k_norm, float eps, const Tensor& cos, const Tensor& sin,
                        const Tensor& slot, KvLayer layer) {
  const char* op = "qk_norm_rope_write";
  check_heads(op, heads);
  check_layer(op, heads, layer);
  const std::int64_t rows = check_qkv(op, qkv, heads);
  check_turn(op, rows, heads.dim, q_norm, k_norm, cos, sin);
  check_shape(op, "slot", slot, DType::i32, {rows});
  check_device(op, s, qkv, q_norm, k_norm, cos, sin, slot, layer.k, layer.v);
  if (on_cuda(s, [&](auto stream) {
        cuda::rope_write({qkv.data<float>(), heads.q, heads.kv, heads.dim, q_norm.data<float>(),
                          k_norm.data<float>(), eps, cos.data<float>(), sin.data<float>()},
                         slot.data<std::int32_t>(), rows, layer.k.dtype(), layer.k.data<void>(),
                         layer.v.data<void>(), stream);
      }))
    return;
  check_cpu_dtype(op, layer.k.dtype());
  qk_norm_rope(s, qkv, heads, q_norm, k_norm, eps, cos, sin);
  kv_write(s, qkv, heads, slot, layer);
}

}  // namespace dream_r::ops
