#include <vector>

#include "ops/checks.h"
#include "ops/cpu/kernels.h"
#include "ops/cuda/linear.h"
#include "ops/dispatch.h"
#include "ops/ops.h"

namespace dream_r::ops {
namespace {

constexpr std::int64_t kPanel = 16;

// The activations as the kernel reads them. Kept by the calling thread and grown to the largest
// batch seen, so a steady state allocates nothing.
void pack_rows(Stream& s, const cpu::LinearKernel& kernel, const float* x, std::int64_t k,
               cpu::LinearArgs& a) {
  thread_local std::vector<std::uint64_t> scratch;
  const std::int64_t padded = (k + kernel.x_multiple - 1) / kernel.x_multiple * kernel.x_multiple;
  const std::int64_t heads = kernel.x_head ? padded / a.group * kernel.x_head : 0;
  a.x_stride = (padded + heads) * kernel.x_bytes;
  const auto need = static_cast<std::size_t>(a.rows * a.x_stride + 7) / 8;
  if (scratch.size() < need) scratch.resize(need);
  auto* to = reinterpret_cast<std::byte*>(scratch.data());
  a.x = to;
  s.parallel_for(a.rows, grain_for(5.0 + 0.1 * static_cast<double>(k)), [&](auto begin, auto end) {
    for (auto t = begin; t < end; ++t)
      kernel.pack(x + t * k, {k, padded, a.group}, to + t * a.x_stride);
  });
}

const cpu::LinearKernel& kernel_of(WeightFormat format) {
  const cpu::Kernels& all = cpu::kernels();
  return format == WeightFormat::f32    ? all.linear_f32
         : format == WeightFormat::bf16 ? all.linear_bf16
         : format == WeightFormat::i16  ? all.linear_i16
                                        : all.linear_w4;
}

// ns for one panel against all rows. One row reads 64 bytes in about a ns where the weights are in
// a cache, which a small layer's are, and unpacks 128 nibbles in about 5; more rows are bound by
// arithmetic.
double panel_ns(const cpu::LinearKernel& kernel, std::int64_t rows, const LinearWeight& w) {
  const double read = static_cast<double>(w.steps()) * (w.format == WeightFormat::w4 ? 5.0 : 1.0);
  return std::max(read, static_cast<double>(rows * w.k * kPanel) / kernel.madds_per_ns) + 2.0;
}

void run(Stream& s, const cpu::LinearKernel& kernel, const cpu::LinearArgs& all, double per_panel) {
  const std::int64_t panels = (all.n + kPanel - 1) / kPanel;
  if (panels < 8 * s.active() && all.rows >= 64 * s.active()) {  // tall and narrow
    const double per_row = per_panel * static_cast<double>(panels) / static_cast<double>(all.rows);
    s.parallel_for(
        all.rows, grain_for(per_row),
        [&](auto begin, auto end) {
          cpu::LinearArgs a = all;
          a.x = static_cast<const std::byte*>(all.x) + begin * all.x_stride;
          a.out = all.out + begin * all.n;
          a.rows = end - begin;
          a.panel_end = panels;
          kernel.run(a);
        },
        kernel.tile_rows);
    return;
  }
  // Whole tiles of every instruction set: one row's are up to three, four or eight panels wide.
  const std::int64_t whole = all.rows == 1 ? 12 : 4;
  s.parallel_for(
      panels, grain_for(per_panel),
      [&](auto begin, auto end) {
        cpu::LinearArgs a = all;
        a.panel_begin = begin;
        a.panel_end = end;
        kernel.run(a);
      },
      whole);
}

void check_weight(const char* op, const LinearWeight& w) {
  DR_CHECK(w.defined()) << op << ": the weight is undefined";
  DR_CHECK(w.n > 0 && w.k > 0) << op << ": weight of " << w.n << " x " << w.k;
}

// Called where on_cuda() has a device to give.
[[maybe_unused]] void run_cuda(Stream& s, const cuda::LinearProblem& p, WeightFormat format,
                               cudaStream_t stream) {
  if (format == WeightFormat::f32) return cuda::linear_f32(p, stream);
  if (cuda::library_takes(p)) {
    const DType type = format == WeightFormat::f16 ? DType::f16 : DType::bf16;
    return cuda::linear_library(p, type, s.scratch(cuda::library_scratch_bytes(p)), stream);
  }
  const auto launch = format == WeightFormat::bf16  ? cuda::linear_bf16
                      : format == WeightFormat::f16 ? cuda::linear_f16
                                                    : cuda::linear_w4;
  launch(p, s.scratch(cuda::linear_scratch_bytes(p)), stream);
}

[[maybe_unused]] void run_cuda(Stream& s, const cuda::GroupedProblem& p, WeightFormat format,
                               cudaStream_t stream) {
  if (format == WeightFormat::f32) return cuda::grouped_linear_f32(p, stream);
  const auto launch = format == WeightFormat::bf16  ? cuda::grouped_linear_bf16
                      : format == WeightFormat::f16 ? cuda::grouped_linear_f16
                                                    : cuda::grouped_linear_w4;
  launch(p, s.scratch(cuda::grouped_scratch_bytes(p)), stream);
}

}  // namespace

void linear(Stream& s, const Tensor& x, const LinearWeight& w, Tensor out) {
  check_weight("linear", w);
  check_rank("linear", "x", x, DType::f32, 2);
  const std::int64_t rows = x.dim(0);
  check_shape("linear", "x", x, DType::f32, {rows, w.k});
  check_shape("linear", "out", out, DType::f32, {rows, w.n});
  check_device("linear", s, x, w.packed, w.bias, out);
  if (rows == 0) return;
  const float* bias = w.bias.defined() ? w.bias.data<float>() : nullptr;
  if (on_cuda(s, [&](auto stream) {
        run_cuda(s,
                 {x.data<float>(), w.packed.data<void>(), bias, out.data<float>(), rows, w.n, w.k,
                  w.group, w.whole_n()},
                 w.format, stream);
      }))
    return;
  check_cpu_dtype("linear", w.packed.dtype());
  const cpu::LinearKernel& kernel = kernel_of(w.format);
  cpu::LinearArgs a{};
  a.rows = rows;
  a.x = x.data<float>();
  a.x_stride = w.k * 4;
  a.w = w.packed.data<void>();
  a.bias = bias;
  a.out = out.data<float>();
  a.n = w.n;
  a.steps = w.steps();
  a.group = w.group;
  if (kernel.pack) pack_rows(s, kernel, x.data<float>(), w.k, a);
  run(s, kernel, a, panel_ns(kernel, rows, w));
}

void grouped_linear(Stream& s, const Tensor& x, std::span<const LinearWeight> experts,
                    const Tensor& begin, Tensor out) {
  const char* op = "grouped_linear";
  DR_CHECK(!experts.empty()) << op << ": no experts";
  check_rank(op, "x", x, DType::f32, 2);
  const LinearWeight& one = experts[0];
  const std::int64_t rows = x.dim(0), count = static_cast<std::int64_t>(experts.size());
  check_shape(op, "x", x, DType::f32, {rows, one.k});
  check_shape(op, "out", out, DType::f32, {rows, one.n});
  check_shape(op, "begin", begin, DType::i32, {count + 1});
  check_device(op, s, x, begin, out);
  for (const LinearWeight& w : experts) {
    check_weight(op, w);
    DR_CHECK(w.n == one.n && w.k == one.k && w.format == one.format && w.group == one.group &&
             !w.bias.defined())
        << op << ": experts of different shapes or formats, or with a bias";
    check_device(op, s, w.packed);
  }
  if (rows == 0) return;
  if (on_cuda(s, [&](auto stream) {
        DR_CHECK(count <= cuda::kMostExperts)
            << op << ": " << count << " experts, at most " << cuda::kMostExperts << " on CUDA";
        const void* weights[cuda::kMostExperts];
        for (std::int64_t e = 0; e < count; ++e) weights[e] = experts[e].packed.data<void>();
        run_cuda(s,
                 {x.data<float>(), weights, begin.data<std::int32_t>(), out.data<float>(), count,
                  rows, one.n, one.k, one.group},
                 one.format, stream);
      }))
    return;
  const auto* at = begin.data<std::int32_t>();
  DR_CHECK(at[0] == 0 && at[count] == rows) << op << ": begin runs from " << at[0] << " to "
                                            << at[count] << ", there are " << rows << " rows";
  for (std::int64_t e = 0; e < count; ++e)
    if (at[e] < at[e + 1])
      linear(s, x.rows(at[e], at[e + 1]), experts[e], out.rows(at[e], at[e + 1]));
}

}  // namespace dream_r::ops
