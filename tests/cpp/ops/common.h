#pragma once
// Random tensors, the instruction sets of this machine, and comparisons.
#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "doctest.h"
#include "ops/cpu/kernels.h"
#include "ops/ops.h"

namespace dream_r::test {

class Random {
 public:
  explicit Random(unsigned seed = 1) : engine_(seed) {}
  float normal() { return normal_(engine_); }
  int below(int n) { return std::uniform_int_distribution<int>(0, n - 1)(engine_); }
  Tensor tensor(Shape shape, float scale = 1.0f) {
    Tensor t = Tensor::empty(shape, DType::f32);
    for (std::int64_t i = 0; i < t.numel(); ++i) t.f32()[i] = scale * normal();
    return t;
  }
  std::mt19937& engine() { return engine_; }

 private:
  std::mt19937 engine_;
  std::normal_distribution<float> normal_;
};

inline Tensor filled(Shape shape, float value) {
  Tensor t = Tensor::empty(shape, DType::f32);
  for (std::int64_t i = 0; i < t.numel(); ++i) t.f32()[i] = value;
  return t;
}

inline Tensor ints(std::vector<std::int32_t> v) {
  Tensor t = Tensor::empty({static_cast<std::int64_t>(v.size())}, DType::i32);
  std::memcpy(t.data<std::byte>(), v.data(), v.size() * 4);
  return t;
}

inline Tensor copy(const Tensor& t) {
  Tensor c = Tensor::empty(t.shape(), t.dtype());
  std::memcpy(c.data<std::byte>(), t.data<std::byte>(), t.nbytes());
  return c;
}

inline bool same_bits(const Tensor& a, const Tensor& b) {
  return a.shape() == b.shape() &&
         std::memcmp(a.data<std::byte>(), b.data<std::byte>(), a.nbytes()) == 0;
}

// Largest |a - want[i]|; NaN anywhere gives NaN, which fails every comparison.
inline double error(const Tensor& a, const std::vector<double>& want) {
  double worst = 0;
  for (std::int64_t i = 0; i < a.numel(); ++i) {
    const double e = std::abs(static_cast<double>(a.f32()[i]) - want[static_cast<std::size_t>(i)]);
    if (!(e <= worst)) worst = e;
  }
  return worst;
}

// Runs f(stream) with each of the kernel tables, else with all that this machine can run.
template <class F>
void each_isa(F&& f, const std::vector<const cpu::Kernels*>& tables = cpu::isa_tables()) {
  for (const cpu::Kernels* table : tables) {
    CAPTURE(std::string(table->name));
    cpu::IsaScope scope(*table);
    Stream s(1);
    f(s);
  }
}

// The portable table with the kernel over tiles on a model of AMX (tile_model.h).
const cpu::Kernels& tile_model_table();

template <class F>
void each_linear(F&& f) {
  auto tables = cpu::isa_tables();
  tables.push_back(&tile_model_table());
  each_isa(f, tables);
}

// True when f throws an Error whose text begins with the op's name.
template <class F>
bool rejects(const std::string& op, F&& f) {
  try {
    f();
  } catch (const Error& e) {
    return e.kind() == Error::Kind::input && std::string(e.what()).rfind(op + ":", 0) == 0;
  }
  return false;
}

}  // namespace dream_r::test
