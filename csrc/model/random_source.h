#pragma once
// Weights made up in memory, for benchmarks and tests: values of a sane scale and no meaning. A
// linear is made as the kernels read it, where the stream is and with all its threads, at the speed
// of memory: its words are runs of one table, each from an offset of its own (ops::fill_linear).
// Much the same numbers come again and again; no two rows are alike.
#include <cstdint>

#include "model/weights.h"

namespace dream_r {

// Normal, deviation 0.02; norms about 1. Where the config is quantised, so are the linears of the
// text layers. All of it follows from the seed and the order of the calls, whatever the device; one
// source makes the linears of one device.
class RandomSource final : public WeightSource {
 public:
  explicit RandomSource(std::uint32_t seed) : state_(seed * 2654435761u + 1u) {}

  // Quantised: the linears of the layers. Experts come one by one.
  bool has(const std::string& name) const override;
  Shape shape(const std::string& name) const override;
  Tensor get(const std::string& name, const Shape& shape) override;  // bf16
  Tensor integers(const std::string& name, const Shape& shape, DType dtype) override;
  LinearWeight linear(Stream& stream, Arena& memory, WeightFormat format, std::int64_t n,
                      std::int64_t k, std::int64_t group) override;

 private:
  std::uint32_t next();
  float draw();  // mean 0, deviation 1
  const Tensor& table(Stream& stream, WeightFormat format);

  std::uint64_t state_;
  Tensor tables_[4];  // by format, made when first asked for, on the linears' device
};

}  // namespace dream_r
