#include <cmath>

#include "ops/cpu/kernels.h"
#include "ops/cuda/kernels.h"
#include "ops/dispatch.h"
#include "ops/head_checks.h"

namespace dream_r::ops {
namespace {

// 0 time, 1 height, 2 width.
int axis_of(int pair, MropeLayout layout, const std::array<int, 3>& sections) {
  if (layout == MropeLayout::chunked)
    return pair < sections[0] ? 0 : pair < sections[0] + sections[1] ? 1 : 2;
  const int axis = pair % 3;
  return axis != 0 && pair / 3 < sections[axis] ? axis : 0;
}

template <class CudaStream>
void mrope_on_cuda(const Tensor& positions, std::span<const float> inv_freq, MropeLayout layout,
                   const std::array<int, 3>& sections, const Tensor& cos, const Tensor& sin,
                   CudaStream stream) {
  cuda::MropePairs pairs;
  DR_CHECK(inv_freq.size() <= std::size_t{cuda::MropePairs::kMost})
      << "mrope_table: " << inv_freq.size() << " pairs, " << cuda::MropePairs::kMost << " at most";
  pairs.count = static_cast<int>(inv_freq.size());
  for (int i = 0; i < pairs.count; ++i) {
    pairs.inv_freq[i] = inv_freq[static_cast<std::size_t>(i)];
    pairs.axis[i] = static_cast<std::uint8_t>(axis_of(i, layout, sections));
  }
  cuda::mrope_table(positions.data<std::int32_t>(), pairs, positions.dim(0), cos.data<float>(),
                    sin.data<float>(), stream);
}

}  // namespace

void mrope_table(Stream& s, const Tensor& positions, std::span<const float> inv_freq,
                 MropeLayout layout, std::array<int, 3> sections, Tensor cos, Tensor sin) {
  const char* op = "mrope_table";
  check_rank(op, "positions", positions, DType::i32, 2);
  const std::int64_t rows = positions.dim(0);
  const auto pairs = static_cast<std::int64_t>(inv_freq.size());
  check_shape(op, "positions", positions, DType::i32, {rows, 3});
  check_shape(op, "cos", cos, DType::f32, {rows, pairs});
  check_shape(op, "sin", sin, DType::f32, {rows, pairs});
  check_device(op, s, positions, cos, sin);
  if (on_cuda(s, [&](auto stream) {
        mrope_on_cuda(positions, inv_freq, layout, sections, cos, sin, stream);
      }))
    return;
  const auto* at = positions.data<std::int32_t>();
  s.parallel_for(rows, grain_for(10.0 * static_cast<double>(pairs)), [&](auto begin, auto end) {
    for (auto t = begin; t < end; ++t) {
      for (int i = 0; i < static_cast<int>(pairs); ++i) {
        // The product in f32, as the reference implementations round it.
        const int axis = axis_of(i, layout, sections);
        const float angle = static_cast<float>(at[t * 3 + axis]) * inv_freq[i];
        cos.data<float>()[t * pairs + i] = std::cos(angle);
        sin.data<float>()[t * pairs + i] = std::sin(angle);
      }
    }
  });
}

void qk_norm_rope(Stream& s, Tensor qkv, Heads heads, const Tensor& q_norm, const Tensor& k_norm,
                  float eps, const Tensor& cos, const Tensor& sin) {
  const char* op = "qk_norm_rope";
  DR_CHECK(heads.q > 0 && heads.kv > 0 && heads.dim > 0 && heads.dim % 2 == 0)
      << op << ": " << heads.q << " and " << heads.kv << " heads of " << heads.dim;
  const std::int64_t rows = check_qkv(op, qkv, heads), width = qkv.dim(1);
  check_turn(op, rows, heads.dim, q_norm, k_norm, cos, sin);
  check_device(op, s, qkv, q_norm, k_norm, cos, sin);
  if (on_cuda(s, [&](auto stream) {
        cuda::rope({qkv.data<float>(), heads.q, heads.kv, heads.dim, q_norm.data<float>(),
                    k_norm.data<float>(), eps, cos.data<float>(), sin.data<float>()},
                   rows, stream);
      }))
    return;
  const auto& kernel = cpu::kernels();
  s.parallel_for(rows, grain_for(0.8 * static_cast<double>(width)), [&](auto begin, auto end) {
    cpu::RopeArgs a{};
    a.qkv = qkv.data<float>() + begin * width;
    a.rows = end - begin;
    a.q = heads.q;
    a.kv = heads.kv;
    a.dim = heads.dim;
    a.q_norm = q_norm.data<float>();
    a.k_norm = k_norm.data<float>();
    a.eps = eps;
    a.cos = cos.data<float>() + begin * (heads.dim / 2);
    a.sin = sin.data<float>() + begin * (heads.dim / 2);
    kernel.qk_norm_rope(a);
  });
}

}  // namespace dream_r::ops
