#include <bit>
#include <cstring>

#include "ops/checks.h"
#include "ops/cpu/kernels.h"
#include "ops/cuda/kernels.h"
#include "ops/dispatch.h"
#include "ops/ops.h"

namespace dream_r::ops {
namespace {

void unpack_row_w4(const LinearWeight& w, std::int64_t id, float* out) {
  const auto* line = w.packed.data<std::uint32_t>() + id / 16 * w.steps() * 16 + id % 16;
  for (std::int64_t i = 0; i < w.k; line += 16) {
    const float scale = std::bit_cast<float>(*line & ~15u);
    const int zero = static_cast<int>(*line & 15u);
    for (const std::int64_t end = i + w.group; i < end; i += 8) {
      line += 16;
      for (int j = 0; j < 8; ++j)
        out[i + j] = static_cast<float>(static_cast<int>(*line >> 4 * j & 15u) - zero) * scale;
    }
  }
}

void unpack_row_i16(const LinearWeight& w, std::int64_t id, float* out) {
  const auto* line = w.packed.data<std::uint32_t>() + id / 16 * w.steps() * 16 + id % 16;
  for (std::int64_t i = 0; i < w.k; i += w.group, line += 16) {
    const float scale = std::bit_cast<float>(line[w.group / 2 * 16]);
    for (std::int64_t j = i; j < i + w.group; j += 2, line += 16)
      for (const std::int64_t at : {j, j + 1})
        if (at < w.k) out[at] = scale * static_cast<std::int16_t>(*line >> 16 * (at - j));
  }
}

// Row `id` of a packed matrix, widened to f32.
void unpack_row(const LinearWeight& w, std::int64_t id, float* out) {
  const std::int64_t panel = id / 16, lane = id % 16;
  if (w.format == WeightFormat::f32) {
    const float* p = w.packed.data<float>() + panel * w.k * 16 + lane;
    for (std::int64_t i = 0; i < w.k; ++i) out[i] = p[i * 16];
    return;
  }
  if (w.format == WeightFormat::w4) return unpack_row_w4(w, id, out);
  if (w.format == WeightFormat::i16) return unpack_row_i16(w, id, out);
  const auto* p = w.packed.data<std::uint16_t>() + panel * ((w.k + 1) / 2) * 32 + lane * 2;
  for (std::int64_t i = 0; i < w.k; ++i)
    out[i] = std::bit_cast<float>(static_cast<std::uint32_t>(p[i / 2 * 32 + i % 2]) << 16);
}

// A template, so that it exists only where it is called.
template <class CudaStream>
void embedding_on_cuda(const Tensor& ids, const LinearWeight& table, const Tensor& out,
                       CudaStream stream) {
  const auto* id = ids.data<std::int32_t>();
  const void* packed = table.packed.data<void>();
  const std::int64_t rows = ids.dim(0), k = table.k;
  if (table.format == WeightFormat::f32)
    cuda::embedding_f32(id, packed, rows, k, out.data<float>(), stream);
  else if (table.format == WeightFormat::bf16)
    cuda::embedding_bf16(id, packed, rows, k, out.data<float>(), stream);
  else if (table.format == WeightFormat::f16)
    cuda::embedding_f16(id, packed, rows, k, out.data<float>(), stream);
  else
    cuda::embedding_w4(id, packed, rows, k, table.group, out.data<float>(), stream);
}

double row_ns(std::int64_t h) { return 20.0 + 0.1 * static_cast<double>(h); }

}  // namespace

void embedding(Stream& s, const Tensor& ids, const LinearWeight& table, Tensor out) {
  const char* op = "embedding";
  check_rank(op, "ids", ids, DType::i32, 1);
  DR_CHECK(table.defined()) << op << ": the table is undefined";
  const std::int64_t count = ids.dim(0);
  check_shape(op, "out", out, DType::f32, {count, table.k});
  check_device(op, s, ids, table.packed, out);
  if (on_cuda(s, [&](auto stream) { embedding_on_cuda(ids, table, out, stream); })) return;
  check_cpu_dtype(op, table.packed.dtype());
  const auto* id = ids.data<std::int32_t>();
  check_ids(op, "ids", id, count, table.n);
  float* y = out.data<float>();
  // A packed row touches one cache line an element.
  s.parallel_for(count, grain_for(2.0 * static_cast<double>(table.k)), [&](auto begin, auto end) {
    for (auto t = begin; t < end; ++t) unpack_row(table, id[t], y + t * table.k);
  });
}

void gather_rows(Stream& s, const Tensor& x, const Tensor& index, Tensor out) {
  const char* op = "gather_rows";
  check_rank(op, "x", x, DType::f32, 2);
  check_rank(op, "index", index, DType::i32, 1);
  const std::int64_t h = x.dim(1), count = index.dim(0);
  check_shape(op, "out", out, DType::f32, {count, h});
  check_device(op, s, x, index, out);
  if (on_cuda(s, [&](auto stream) {
        cuda::gather_rows(x.data<float>(), index.data<std::int32_t>(), count, h, out.data<float>(),
                          stream);
      }))
    return;
  const auto* at = index.data<std::int32_t>();
  check_ids(op, "index", at, count, x.dim(0));
  const float* from = x.data<float>();
  float* y = out.data<float>();
  s.parallel_for(count, grain_for(row_ns(h)), [&](auto begin, auto end) {
    for (auto i = begin; i < end; ++i)
      std::memcpy(y + i * h, from + at[i] * h, static_cast<std::size_t>(h) * sizeof(float));
  });
}

namespace {
struct Scatter {
  std::int64_t h, count;
  const std::int32_t* at;
  const float* y;
  float* x;
};
Scatter check_scatter(const char* op, const Stream& s, const Tensor& y, const Tensor& index,
                      const Tensor& x) {
  check_rank(op, "x", x, DType::f32, 2);
  check_rank(op, "index", index, DType::i32, 1);
  check_shape(op, "y", y, DType::f32, {index.dim(0), x.dim(1)});
  check_device(op, s, y, index, x);
  const auto* at = index.data<std::int32_t>();
  if (!s.device().on_cuda()) check_ids(op, "index", at, index.dim(0), x.dim(0));
  return {x.dim(1), index.dim(0), at, y.data<float>(), x.data<float>()};
}
}  // namespace

void scatter_add_rows(Stream& s, const Tensor& y, const Tensor& index, Tensor x) {
  const Scatter a = check_scatter("scatter_add_rows", s, y, index, x);
  if (on_cuda(s,
              [&](auto stream) { cuda::scatter_add_rows(a.y, a.at, a.count, a.h, a.x, stream); }))
    return;
  const auto& kernel = cpu::kernels();
  s.parallel_for(a.count, grain_for(row_ns(a.h)), [&](auto begin, auto end) {
    for (auto i = begin; i < end; ++i) kernel.add(a.x + a.at[i] * a.h, a.y + i * a.h, a.h);
  });
}

void scatter_rows(Stream& s, const Tensor& y, const Tensor& index, Tensor x) {
  const Scatter a = check_scatter("scatter_rows", s, y, index, x);
  if (on_cuda(s, [&](auto stream) { cuda::scatter_rows(a.y, a.at, a.count, a.h, a.x, stream); }))
    return;
  s.parallel_for(a.count, grain_for(row_ns(a.h)), [&](auto begin, auto end) {
    for (auto i = begin; i < end; ++i)
      std::memcpy(a.x + a.at[i] * a.h, a.y + i * a.h,
                  static_cast<std::size_t>(a.h) * sizeof(float));
  });
}

void bilinear_rows(Stream& s, const Tensor& table, const Tensor& index, const Tensor& weight,
                   Tensor out) {
  const char* op = "bilinear_rows";
  check_rank(op, "table", table, DType::f32, 2);
  check_rank(op, "index", index, DType::i32, 2);
  const std::int64_t count = index.dim(0), h = table.dim(1);
  check_shape(op, "index", index, DType::i32, {count, 4});
  check_shape(op, "weight", weight, DType::f32, {count, 4});
  check_shape(op, "out", out, DType::f32, {count, h});
  check_device(op, s, table, index, weight, out);
  if (on_cuda(s, [&](auto stream) {
        cuda::bilinear_rows(table.data<float>(), index.data<std::int32_t>(), weight.data<float>(),
                            count, h, out.data<float>(), stream);
      }))
    return;
  const auto* at = index.data<std::int32_t>();
  check_ids(op, "index", at, count * 4, table.dim(0));
  const auto& kernel = cpu::kernels();
  s.parallel_for(count, grain_for(2.0 * row_ns(h)), [&](auto begin, auto end) {
    for (auto t = begin; t < end; ++t) {
      const float* rows[4];
      for (int j = 0; j < 4; ++j) rows[j] = table.data<float>() + at[t * 4 + j] * h;
      kernel.mix4(rows, weight.data<float>() + t * 4, h, out.data<float>() + t * h);
    }
  });
}

}  // namespace dream_r::ops
