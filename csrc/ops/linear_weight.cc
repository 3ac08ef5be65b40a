#include "ops/linear_weight.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "ops/checks.h"
#include "ops/cpu/kernels.h"
#include "ops/cuda/linear.h"
#include "ops/dispatch.h"
#include "ops/ops.h"

namespace dream_r {
namespace {

constexpr std::int64_t kPanel = 16;

std::int64_t panels_of(std::int64_t n) { return (n + kPanel - 1) / kPanel; }

DType packed_dtype(WeightFormat format) {
  switch (format) {
    case WeightFormat::f32:
      return DType::f32;
    case WeightFormat::bf16:
      return DType::bf16;
    case WeightFormat::f16:
      return DType::f16;
    case WeightFormat::w4:
    case WeightFormat::i16:
      return DType::i32;
  }
  return DType::i32;
}

Shape packed_shape(const LinearWeight& w) {
  if (w.format == WeightFormat::f32) return {panels_of(w.n), w.k, kPanel};
  if (w.format == WeightFormat::w4) return {panels_of(w.n), w.k / 8 + w.k / w.group, kPanel};
  if (w.format == WeightFormat::i16)
    return {panels_of(w.n), (w.k + w.group - 1) / w.group * (w.group / 2 + 1), kPanel};
  return {panels_of(w.n), (w.k + 1) / 2, kPanel, 2};
}

// Where row `lane` of a panel keeps its element i, in elements from the panel's start.
std::int64_t place(WeightFormat format, std::int64_t lane, std::int64_t i) {
  return format == WeightFormat::f32 ? i * kPanel + lane : i / 2 * 2 * kPanel + lane * 2 + i % 2;
}

// T: the elements of `w`.
template <class T>
void pack_row_as(const Tensor& source, std::int64_t row, LinearWeight& w, std::int64_t to) {
  const std::int64_t at = row * w.k, lane = to % kPanel;
  T* panel = w.packed.data<T>() + to / kPanel * (w.packed.numel() / w.packed.dim(0));
  if (source.dtype() == w.packed.dtype()) {
    const T* from = source.data<T>() + at;
    for (std::int64_t i = 0; i < w.k; ++i) panel[place(w.format, lane, i)] = from[i];
    return;
  }
  for (std::int64_t i = 0; i < w.k; ++i)
    panel[place(w.format, lane, i)] = T(float_at(source, at + i));
}

// The row in f32: where it lies, or in `buffer`.
const float* floats_of(const Tensor& source, std::int64_t row, std::int64_t k,
                       std::vector<float>& buffer) {
  if (source.dtype() == DType::f32) return source.data<float>() + row * k;
  buffer.resize(static_cast<std::size_t>(k));
  const auto widen = [&](const auto* from) {
    std::transform(from, from + k, buffer.begin(), [](auto v) { return static_cast<float>(v); });
  };
  if (source.dtype() == DType::bf16)
    widen(source.data<bf16>() + row * k);
  else
    widen(source.data<f16>() + row * k);
  return buffer.data();
}

// Rows [begin, end) of the source, from row `first` of W on. They become whole numbers as rows of x
// do; the lines of a panel are then written one after the other.
void pack_rows_i16(const Tensor& source, std::int64_t begin, std::int64_t end, LinearWeight& w,
                   std::int64_t first) {
  const std::int64_t steps = w.steps(), padded = (w.k + w.group - 1) / w.group * w.group;
  std::vector<float> buffer;
  std::vector<std::uint32_t> words(static_cast<std::size_t>(kPanel * steps));
  for (std::int64_t row = begin; row < end;) {
    const std::int64_t to = first + row, lane = to % kPanel;
    const std::int64_t count = std::min(end - row, kPanel - lane);
    for (std::int64_t r = 0; r < count; ++r)
      cpu::kernels().linear_i16.pack(floats_of(source, row + r, w.k, buffer),
                                     {w.k, padded, w.group}, words.data() + r * steps);
    auto* line = w.packed.data<std::uint32_t>() + to / kPanel * steps * kPanel + lane;
    for (std::int64_t i = 0; i < steps; ++i, line += kPanel)
      for (std::int64_t r = 0; r < count; ++r)
        line[r] = words[static_cast<std::size_t>(r * steps + i)];
    row += count;
  }
}

void pack_row(const Tensor& source, std::int64_t row, LinearWeight& w, std::int64_t to) {
  if (w.format == WeightFormat::f32) return pack_row_as<float>(source, row, w, to);
  if (w.format == WeightFormat::f16) return pack_row_as<f16>(source, row, w, to);
  pack_row_as<bf16>(source, row, w, to);
}

// In every format a step of a panel is 16 lanes of four bytes, one a row.
void copy_rows(const LinearWeight& w, std::span<const std::int32_t> ids, LinearWeight& out) {
  std::memset(out.packed.data<std::byte>(), 0, out.packed.nbytes());
  const auto at = [](const LinearWeight& m, std::int64_t row, std::int64_t step) {
    return m.packed.data<std::uint32_t>() + (row / kPanel * m.steps() + step) * kPanel +
           row % kPanel;
  };
  for (std::int64_t j = 0; j < out.n; ++j)
    for (std::int64_t i = 0; i < w.steps(); ++i) *at(out, j, i) = *at(w, ids[j], i);
  if (!w.bias.defined()) return;
  for (std::int64_t j = 0; j < out.n; ++j) out.bias.data<float>()[j] = w.bias.data<float>()[ids[j]];
}

}  // namespace

LinearWeight empty_linear(WeightFormat format, std::int64_t n, std::int64_t k, std::int64_t group,
                          Arena* memory) {
  LinearWeight w;
  w.format = format;
  w.n = n, w.k = k, w.group = format == WeightFormat::i16 ? cpu::i16_group(k) : group;
  const Shape shape = packed_shape(w);
  const DType dtype = packed_dtype(format);
  w.packed = memory ? memory->take(shape, dtype) : Tensor::empty(shape, dtype);
  return w;
}

void zero_padding(LinearWeight& w) {
  const std::int64_t panels = panels_of(w.n), steps = w.steps();
  if (w.n % kPanel)
    for (std::int64_t i = (panels - 1) * steps; i < panels * steps; ++i)
      std::fill_n(w.packed.data<std::uint32_t>() + i * kPanel + w.n % kPanel, kPanel - w.n % kPanel,
                  0u);
  if (!in_pairs(w.format) || w.k % 2 == 0) return;
  for (std::int64_t p = 1; p <= panels; ++p)
    for (std::int64_t lane = 0; lane < kPanel; ++lane)
      w.packed.data<std::uint16_t>()[((p * steps - 1) * kPanel + lane) * 2 + 1] = 0;
}

LinearWeight pack_linear(Stream& stream, std::span<const Tensor> sources, WeightFormat format) {
  const char* op = "pack_linear";
  DR_CHECK(format != WeightFormat::w4) << op << ": w4 weights are packed elsewhere";
  DR_CHECK(!sources.empty()) << op << ": no matrices";
  std::int64_t n = 0;
  for (const auto& t : sources) {
    DR_CHECK(t.defined() && t.shape().rank() == 2 && t.dim(1) == sources[0].dim(1))
        << op << ": matrices " << sources[0].shape().str() << " and " << t.shape().str()
        << " do not stack";
    DR_CHECK(t.dtype() == DType::f32 || t.dtype() == DType::bf16 || t.dtype() == DType::f16)
        << op << ": matrix of " << name_of(t.dtype());
    n += t.dim(0);
  }
  DR_CHECK(n > 0 && sources[0].dim(1) > 0) << op << ": empty matrix " << sources[0].shape().str();
  LinearWeight w = empty_linear(format, n, sources[0].dim(1));
  zero_padding(w);
  std::int64_t first = 0;
  for (const auto& t : sources) {
    const std::int64_t grain = ops::grain_for(1.5 * static_cast<double>(w.k));
    stream.parallel_for(
        t.dim(0), grain,
        [&](auto begin, auto end) {
          if (format == WeightFormat::i16) return pack_rows_i16(t, begin, end, w, first);
          for (auto row = begin; row < end; ++row) pack_row(t, row, w, first + row);
        },
        kPanel);
    first += t.dim(0);
  }
  return w;
}

LinearWeight select_rows(Stream& stream, const LinearWeight& w, std::span<const std::int32_t> ids) {
  const char* op = "select_rows";
  DR_CHECK(w.defined()) << op << ": the weight is undefined";
  DR_CHECK(!ids.empty()) << op << ": no rows asked for";
  const auto count = static_cast<std::int64_t>(ids.size());
  ops::check_ids(op, "ids", ids.data(), count, w.n);
  ops::check_device(op, stream, w.packed, w.bias);
  LinearWeight out = w;
  out.n = count;
  out.selected_from = w.whole_n();
  out.packed = Tensor::empty(packed_shape(out), w.packed.dtype(), stream.device());
  // Whole panels on CUDA: there a bias is gathered as a weight of one line a panel.
  if (w.bias.defined())
    out.bias =
        Tensor::empty({panels_of(count) * kPanel}, DType::f32, stream.device()).rows(0, count);
  if (ops::on_cuda(stream, [&](auto s) {
        Tensor host = Tensor::empty({count}, DType::i32);
        std::copy(ids.begin(), ids.end(), host.data<std::int32_t>());
        const Tensor there = ops::copy_to(stream, host, stream.device());
        cuda::select_rows(w.packed.data<void>(), w.steps(), there.data<std::int32_t>(), count,
                          out.packed.data<void>(), s);
        if (w.bias.defined())
          cuda::select_rows(w.bias.data<void>(), 1, there.data<std::int32_t>(), count,
                            out.bias.data<void>(), s);
        stream.wait();  // `there` is released
      }))
    return out;
  copy_rows(w, ids, out);
  return out;
}

LinearWeight copy_to(Stream& stream, const LinearWeight& w, Device device) {
  LinearWeight out = w;
  out.packed = ops::copy_to(stream, w.packed, device);
  out.bias = ops::copy_to(stream, w.bias, device);
  return out;
}

}  // namespace dream_r
