#include <vector>

#include "model/quantization.h"
#include "model/weights.h"
#include "quant/w4.h"

namespace dream_r {
namespace {

using quant::W4Layout;
using quant::W4Matrix;

constexpr const char* kAwqTensors[] = {".qweight", ".qzeros", ".scales"};
constexpr const char* kPackedTensors[] = {".weight_packed", ".weight_scale", ".weight_zero_point",
                                          ".weight_shape"};

W4Matrix awq(WeightSource& source, const std::string& name, std::int64_t n, std::int64_t k,
             std::int64_t group) {
  DR_CHECK(n % 8 == 0) << source.label(name + ".qweight") << ": " << n
                       << " outputs are no multiple of 8";
  const std::string scales = name + ".scales";
  W4Matrix m{source.label(scales), W4Layout::awq_gemm, n, k, group, {}, {}, {}};
  m.words = source.integers(name + ".qweight", {k, n / 8}, DType::i32);
  m.zeros = source.integers(name + ".qzeros", {k / group, n / 8}, DType::i32);
  m.scales = source.get(scales, {k / group, n});
  return m;
}

W4Matrix packed(WeightSource& source, const std::string& name, std::int64_t n, std::int64_t k,
                const Quantization& q) {
  DR_CHECK(!source.has(name + ".weight_g_idx"))
      << source.label(name + ".weight_g_idx")
      << ": columns in an order of their own are not supported";
  const std::string scales = name + ".weight_scale";
  W4Matrix m{source.label(scales), W4Layout::pack_quantized, n, k, q.group, {}, {}, {}};
  m.words = source.integers(name + ".weight_packed", {n, k / 8}, DType::i32);
  if (!q.symmetric)
    m.zeros = source.integers(name + ".weight_zero_point", {(n + 7) / 8, k / q.group}, DType::i32);
  m.scales = source.get(scales, {n, k / q.group});
  if (source.has(name + ".weight_shape")) {
    const Tensor shape = source.integers(name + ".weight_shape", {2}, DType::i64);
    if (source.headers_only()) return m;
    const auto* got = shape.data<std::int64_t>();
    DR_CHECK(got[0] == n && got[1] == k)
        << source.label(name + ".weight_shape") << ": " << got[0] << " x " << got[1]
        << ", config.json wants " << n << " x " << k;
  }
  return m;
}

}  // namespace

std::string words_of(const WeightSource& source, const Quantization& q, const std::string& name) {
  if (q.method == Quantization::Method::none) return "";
  const bool is_awq = q.method == Quantization::Method::awq;
  const std::string words = name + (is_awq ? kAwqTensors[0] : kPackedTensors[0]);
  return source.has(words) ? words : "";
}

LinearWeight load_quantized(WeightSource& source, const Quantization& q, Stream& stream,
                            const std::string& prefix, std::span<const LinearPart> parts,
                            std::int64_t k) {
  const bool is_awq = q.method == Quantization::Method::awq;
  const auto tensors = is_awq ? std::span<const char* const>(kAwqTensors)
                              : std::span<const char* const>(kPackedTensors);
  std::vector<W4Matrix> matrices;
  for (const LinearPart& p : parts) {
    const std::string name = prefix + p.name;
    quant::check_group(source.label(name + tensors[0]), k, q.group);
    matrices.push_back(is_awq ? awq(source, name, p.rows, k, q.group)
                              : packed(source, name, p.rows, k, q));
  }
  if (source.headers_only()) return {};
  LinearWeight w = quant::pack_w4(stream, matrices);
  matrices.clear();
  for (const LinearPart& p : parts)
    for (const char* tensor : tensors)
      if (source.has(prefix + p.name + tensor)) source.drop(prefix + p.name + tensor);
  return w;
}

}  // namespace dream_r
