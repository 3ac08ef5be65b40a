#include "model/random_source.h"

#include <bit>
#include <span>

#include "ops/fill.h"
#include "ops/ops.h"
#include "quant/w4.h"

namespace dream_r {
namespace {

constexpr float kDeviation = 0.02f;
// Nibbles spread by 4.6 about a zero point of 8: as far from zero as the weights in bf16. A bf16,
// whose low bits are the zero point's place.
const std::uint32_t kHead =
    std::bit_cast<std::uint32_t>(static_cast<float>(bf16(kDeviation / 4.6f))) | 8u;

}  // namespace

bool RandomSource::has(const std::string& name) const {
  if (name.find(".experts.gate_up_proj") != std::string::npos ||
      name.find(".experts.down_proj") != std::string::npos)
    return false;
  if (name.ends_with(".weight_packed") || name.ends_with(".qweight"))
    return name.find(".layers.") != std::string::npos;
  return !name.ends_with(".weight_g_idx") && !name.ends_with(".weight_shape");
}

Shape RandomSource::shape(const std::string& name) const {
  DR_FAIL(state) << label(name) << " has no shape of its own";
}

Tensor RandomSource::integers(const std::string& name, const Shape&, DType) {
  DR_FAIL(state) << label(name) << ": quantised linears are made whole";
}

Tensor RandomSource::get(const std::string& name, const Shape& shape) {
  const bool norm = name.find("norm") != std::string::npos && name.ends_with(".weight");
  Tensor t = Tensor::empty(shape, DType::bf16);
  bf16* p = t.data<bf16>();
  for (std::int64_t i = 0; i < t.numel(); ++i)
    p[i] = bf16((norm ? 1.0f : 0.0f) + kDeviation * draw());
  return t;
}

LinearWeight RandomSource::linear(Stream& stream, Arena& memory, WeightFormat format,
                                  std::int64_t n, std::int64_t k, std::int64_t group) {
  if (format == WeightFormat::i16) return {};  // from get(), as a checkpoint's
  if (format != WeightFormat::w4) group = 0;
  if (group) quant::check_group("random weights", k, group);
  const Tensor& words = table(stream, format);
  const std::uint64_t key = (std::uint64_t{next()} << 32) | next();
  const LinearWeight w = empty_linear(format, n, k, group, &memory);
  ops::fill_linear(stream, words, key, kHead, w);
  return w;
}

// Sum of the four bytes of an LCG's high half: nearly normal.
float RandomSource::draw() {
  const std::uint32_t u = next();
  const int sum = static_cast<int>((u & 255) + (u >> 8 & 255) + (u >> 16 & 255) + (u >> 24));
  return static_cast<float>(sum - 510) / 147.8f;
}

std::uint32_t RandomSource::next() {
  state_ = state_ * 6364136223846793005u + 1442695040888963407u;
  return static_cast<std::uint32_t>(state_ >> 32);
}

const Tensor& RandomSource::table(Stream& stream, WeightFormat format) {
  Tensor& words = tables_[static_cast<std::size_t>(format)];
  if (words.defined()) return words;
  const Tensor host = Tensor::empty({ops::kFillOffsets + ops::kFillRun}, DType::i32);
  const auto half = [&]() -> std::uint32_t {
    const float v = kDeviation * draw();
    return format == WeightFormat::f16 ? f16(v).bits : std::bit_cast<std::uint16_t>(bf16(v));
  };
  for (std::uint32_t& word : std::span(host.data<std::uint32_t>(), host.numel()))
    word = format == WeightFormat::w4    ? next()
           : format == WeightFormat::f32 ? std::bit_cast<std::uint32_t>(kDeviation * draw())
                                         : half() | half() << 16;
  return words = ops::copy_to(stream, host, stream.device());
}

}  // namespace dream_r
