#include "model/loader.h"

#include <algorithm>
#include <cstring>

namespace dream_r {
namespace {

Tensor to_f32(const Tensor& x) {
  Tensor out = Tensor::empty(x.shape(), DType::f32);
  const std::int64_t n = x.numel();
  float* y = out.f32();
  switch (x.dtype()) {
    case DType::f32:
      std::memcpy(y, x.data<float>(), static_cast<std::size_t>(n) * sizeof(float));
      break;
    case DType::bf16:
      for (std::int64_t i = 0; i < n; ++i) y[i] = static_cast<float>(x.data<bf16>()[i]);
      break;
    case DType::f16:
      for (std::int64_t i = 0; i < n; ++i) y[i] = static_cast<float>(x.data<f16>()[i]);
      break;
    default:
      DR_FAIL(input) << "a weight is " << name_of(x.dtype()) << ", f32, bf16 or f16 wanted";
  }
  return out;
}

// out[j][i] = in[i][j], in tiles that stay in the nearest cache.
template <class T>
void transpose(Stream& stream, const T* in, std::int64_t rows, std::int64_t columns, T* out) {
  constexpr std::int64_t kTile = 32;
  stream.parallel_for((columns + kTile - 1) / kTile, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i0 = 0; i0 < rows; i0 += kTile)
      for (std::int64_t j = begin * kTile; j < std::min(end * kTile, columns); ++j)
        for (std::int64_t i = i0; i < std::min(i0 + kTile, rows); ++i)
          out[j * rows + i] = in[i * columns + j];
  });
}

Tensor transposed_copy(Stream& stream, const Tensor& x) {
  const std::int64_t rows = x.dim(0), columns = x.dim(1);
  Tensor out = Tensor::empty({columns, rows}, x.dtype());
  if (size_of(x.dtype()) == 4)
    transpose(stream, x.data<std::uint32_t>(), rows, columns, out.data<std::uint32_t>());
  else
    transpose(stream, x.data<std::uint16_t>(), rows, columns, out.data<std::uint16_t>());
  return out;
}

}  // namespace

Tensor Loader::host_vector(const std::string& name, const Shape& shape) {
  const Tensor from = source_.get(name, shape);
  if (source_.headers_only()) return from;
  Tensor out = to_f32(from);
  source_.drop(name);
  return out;
}

Tensor Loader::place(const Tensor& t) {
  if (!t.defined() || t.device() == home_.device()) return t;
  Tensor there = memory_->of(t.nbytes()).take(t.shape(), t.dtype());
  ops::copy(home_, t, there);
  return there;
}

LinearWeight Loader::place(const LinearWeight& w) {
  LinearWeight there = w;
  there.packed = place(w.packed), there.bias = place(w.bias);
  return there;
}

Tensor Loader::vector(const std::string& name, const Shape& shape) {
  return place(host_vector(name, shape));
}

NormWeight Loader::norm(const std::string& name, std::int64_t n) {
  return {vector(name + ".weight", {n}), vector(name + ".bias", {n})};
}

LinearWeight Loader::products(const std::string& prefix, std::span<const Part> parts,
                              std::int64_t k) {
  const bool quantized = !words_of(source_, quantization_, prefix + parts[0].name).empty();
  const WeightFormat format = quantized ? WeightFormat::w4 : format_;
  std::int64_t n = 0;
  for (const Part& p : parts) n += p.rows;
  // Where it is to stay: a model on a device needs no host memory of its size.
  Stream& there = home_.device().on_cuda() ? home_ : stream_;
  const auto half_bytes = static_cast<std::size_t>(n * k / 2);  // of w4; others are larger
  LinearWeight made =
      source_.linear(there, memory_->of(format == WeightFormat::w4 ? half_bytes : 4 * half_bytes),
                     format, n, k, quantization_.group);
  if (made.defined()) return made;
  if (quantized) return place(load_quantized(source_, quantization_, stream_, prefix, parts, k));
  std::vector<Tensor> sources;
  for (const Part& p : parts)
    sources.push_back(source_.get(prefix + p.name + ".weight", {p.rows, k}));
  LinearWeight w = pack(sources);
  sources.clear();
  for (const Part& p : parts) source_.drop(prefix + p.name + ".weight");
  return w;
}

LinearWeight Loader::stacked(const std::string& prefix, std::initializer_list<Part> parts,
                             std::int64_t k, bool bias) {
  LinearWeight w = products(prefix, parts, k);
  if (!bias) return w;
  std::vector<Tensor> sources;
  for (const Part& p : parts) sources.push_back(host_vector(prefix + p.name + ".bias", {p.rows}));
  if (source_.headers_only()) return w;
  const Tensor all = Tensor::empty({w.n}, DType::f32);
  float* to = all.f32();
  for (const Tensor& t : sources) to = std::copy_n(t.f32(), t.numel(), to);
  w.bias = place(all);
  return w;
}

LinearWeight Loader::pack(std::span<const Tensor> sources) {
  if (source_.headers_only()) return {};
  return place(pack_linear(stream_, sources, format_));
}

LinearWeight Loader::matrix(const std::string& name, std::int64_t n, std::int64_t k) {
  return stacked("", {{name, n}}, k);
}

LinearWeight Loader::exact(const std::string& name, std::int64_t n, std::int64_t k) {
  Loader plain(source_, WeightFormat::f32, stream_, home_);
  plain.memory_ = memory_;
  return plain.matrix(name, n, k);
}

std::vector<LinearWeight> Loader::fused(const std::string& name, std::int64_t count, std::int64_t n,
                                        std::int64_t k, bool transposed) {
  const std::int64_t rows = transposed ? k : n, columns = transposed ? n : k;
  const Tensor all = source_.get(name, {count, rows, columns});
  std::vector<LinearWeight> out;
  for (std::int64_t i = 0; i < count; ++i) {
    Tensor one = all.rows(i, i + 1).view({rows, columns});
    if (transposed && !source_.headers_only()) one = transposed_copy(stream_, one);
    out.push_back(pack(std::span<const Tensor>(&one, 1)));
  }
  source_.drop(name);
  return out;
}

void Loader::refuse_quantized(const std::string& name, const char* what) const {
  const std::string words = words_of(source_, quantization_, name);
  DR_CHECK(words.empty()) << source_.label(words) << ": " << what;
}

LinearWeight Loader::biased(const std::string& name, std::int64_t n, std::int64_t k) {
  return stacked("", {{name, n}}, k, true);
}

LinearWeight Loader::convolution(const std::string& name, const Shape& kernel) {
  Tensor w = source_.get(name + ".weight", kernel);
  Tensor flat = w.view({kernel[0], kernel.numel() / kernel[0]});
  LinearWeight out = pack(std::span<const Tensor>(&flat, 1));
  source_.drop(name + ".weight");
  return out;
}

std::string Loader::find_prefix(std::initializer_list<const char*> prefixes,
                                const std::string& probe) const {
  for (const char* prefix : prefixes)
    if (source_.has(prefix + probe)) return prefix;
  return *prefixes.begin();  // the usual one, for the error message
}

}  // namespace dream_r
