#include <cmath>
#include <vector>

#include "ops/checks.h"
#include "ops/cpu/kernels.h"
#include "ops/cuda/kernels.h"
#include "ops/dispatch.h"
#include "ops/ops.h"

namespace dream_r::ops {
namespace {

void check_segments(const char* op, std::span<const std::int32_t> cu, std::int64_t tokens) {
  DR_CHECK(!cu.empty() && cu.front() == 0 && cu.back() == tokens)
      << op << ": segments must run from 0 to " << tokens;
  for (std::size_t i = 1; i < cu.size(); ++i)
    DR_CHECK(cu[i - 1] <= cu[i]) << op << ": cu[" << i << "] = " << cu[i] << " is less than "
                                 << cu[i - 1];
}

struct Vision {
  const float* qkv;
  float* out;
  int heads, dim;
};

// Rows [from, to) of a segment's n tokens that start at `token`, for one head.
void attend(const cpu::Kernels& kernel, const Vision& v, std::int64_t token, std::int64_t n,
            std::int64_t head, std::int64_t from, std::int64_t to) {
  thread_local std::vector<float> packed;  // grown to the largest segment seen
  const std::int64_t h = std::int64_t{v.heads} * v.dim, keys = cpu::packed_keys(n, v.dim);
  const auto need = static_cast<std::size_t>(keys + cpu::packed_values(n, v.dim));
  if (packed.size() < need) packed.resize(need);
  cpu::SegmentUnit u{};
  u.stride = 3 * h;
  u.out_stride = h;
  u.q = v.qkv + token * u.stride + head * v.dim;
  u.k = u.q + h;
  u.v = u.k + h;
  u.out = v.out + token * h + head * v.dim;
  u.keys = n;
  u.dim = v.dim;
  u.scale = 1.0f / std::sqrt(static_cast<float>(v.dim));
  kernel.pack_segment(u, packed.data(), packed.data() + keys);
  for (u.first = from; u.first < to; u.first += u.count) {
    u.count = static_cast<int>(std::min<std::int64_t>(cpu::unit_rows(v.dim), to - u.first));
    kernel.segment_attention(u, packed.data(), packed.data() + keys);
  }
}

}  // namespace

void segment_attention(Stream& s, const Tensor& qkv, int heads, int dim,
                       std::span<const std::int32_t> cu, [[maybe_unused]] Products products,
                       Tensor out) {
  const char* op = "segment_attention";
  DR_CHECK(heads > 0 && dim > 0 && dim % 8 == 0 && dim <= cpu::kMaxSegmentDim)
      << op << ": " << heads << " heads of " << dim;
  check_rank(op, "qkv", qkv, DType::f32, 2);
  const std::int64_t tokens = qkv.dim(0), h = std::int64_t{heads} * dim;
  check_shape(op, "qkv", qkv, DType::f32, {tokens, 3 * h});
  check_shape(op, "out", out, DType::f32, {tokens, h});
  check_segments(op, cu, tokens);
  check_device(op, s, qkv, out);
  if (on_cuda(s, [&](auto) {
        DR_CHECK(dim <= cuda::kMaxSegmentDim)
            << op << ": heads of " << dim << ", at most " << cuda::kMaxSegmentDim << " on CUDA";
        cuda::SegmentBatch b{};
        b.qkv = qkv.data<float>();
        b.out = out.data<float>();
        b.tokens = static_cast<int>(tokens);
        b.heads = heads;
        b.dim = dim;
        b.products = products;
        cuda::segment_attention(s, b, cu);
      }))
    return;
  double pairs = 0;
  for (std::size_t i = 1; i < cu.size(); ++i) {
    const double n = cu[i] - cu[i - 1];
    pairs += n * n;
  }
  // A segment's rows are cut into parts only where there are fewer (segment, head) than threads.
  const auto items = static_cast<std::int64_t>(cu.size() - 1) * heads;
  if (tokens == 0) return;
  const std::int64_t parts = items >= 4 * s.active() ? 1 : (4 * s.active() + items - 1) / items;
  const double ns = pairs * heads * (0.04 * dim + 1.0) / static_cast<double>(items * parts);
  const Vision v{qkv.data<float>(), out.data<float>(), heads, dim};
  const auto& kernel = cpu::kernels();
  s.parallel_for(items * parts, grain_for(ns), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t item = i / parts, part = i % parts, segment = item / heads;
      const std::int64_t n = cu[segment + 1] - cu[segment];
      const std::int64_t from = n * part / parts, to = n * (part + 1) / parts;
      if (from < to) attend(kernel, v, cu[segment], n, item % heads, from, to);
    }
  });
}

}  // namespace dream_r::ops
