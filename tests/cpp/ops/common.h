#pragma once
// Random tensors, the instruction sets and devices of this machine, and comparisons.
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <type_traits>
#include <vector>

#include "doctest.h"
#include "kept.h"
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

inline bool cuda_is_here() { return kHasCuda && cuda::unusable().empty(); }

// Runs f(stream) as each_isa does, then on the first CUDA device where there is one. With
// DREAM_R_TEST_DEVICE=cuda there alone, and it must be there.
template <class F>
void each_device(F&& f) {
  const char* only = std::getenv("DREAM_R_TEST_DEVICE");
  if (!only || std::strcmp(only, "cuda") != 0)
    each_isa(f);
  else
    REQUIRE_MESSAGE(cuda_is_here(), cuda::unusable());
  if (!cuda_is_here()) return;
  CAPTURE(std::string("cuda"));
  Stream s(cuda_device());
  f(s);
}

// What weights and caches may be where `s` runs, f32 first.
inline std::vector<DType> element_types(const Stream& s) {
  if (s.device().on_cuda()) return {DType::f32, DType::bf16, DType::f16};
  return {DType::f32, DType::bf16};
}
inline WeightFormat format_of(DType type) {
  return type == DType::f32    ? WeightFormat::f32
         : type == DType::bf16 ? WeightFormat::bf16
                               : WeightFormat::f16;
}

// Another stream of s's device; on the CPU one of two threads.
inline std::unique_ptr<Stream> another(const Stream& s) {
  return s.device().on_cuda() ? std::make_unique<Stream>(s.device()) : std::make_unique<Stream>(2);
}

// Host tensors on the stream's device for one op, and its outputs back. A tensor that is named
// twice is one there too.
class Visit {
 public:
  explicit Visit(Stream& s) : s_(s) {}
  Tensor there(const Tensor& t) {
    for (const Trip& trip : trips_)
      if (t.defined() && trip.here.data<std::byte>() == t.data<std::byte>() &&
          trip.here.shape() == t.shape())
        return trip.there;
    trips_.push_back({t, ops::copy_to(s_, t, s_.device())});
    return trips_.back().there;
  }
  LinearWeight there(const LinearWeight& w) { return copy_to(s_, w, s_.device()); }
  // An output: copied back by home().
  Tensor out(const Tensor& t) {
    outputs_.push_back(t);
    return there(t);
  }
  void home() {
    for (const Tensor& t : outputs_)
      if (t.defined()) ops::copy(s_, there(t), t);
  }

 private:
  struct Trip {
    Tensor here, there;
  };
  Stream& s_;
  std::vector<Trip> trips_;
  std::vector<Tensor> outputs_;
};

// An argument of an op as its parameter of type P wants it: inputs are `const Tensor&`, outputs
// `Tensor`.
template <class P>
decltype(auto) argument(Visit& visit, std::type_identity_t<P>& a) {
  if constexpr (std::is_same_v<P, const Tensor&>)
    return visit.there(a);
  else if constexpr (std::is_same_v<P, Tensor>)
    return visit.out(a);
  else if constexpr (std::is_same_v<P, const LinearWeight&>)
    return visit.there(a);
  else if constexpr (std::is_same_v<P, ops::KvLayer>)
    return ops::KvLayer{visit.out(a.k), visit.out(a.v)};
  else
    return (a);
}

// op(s, args...) with tensors of the host, wherever `s` runs.
template <class... P>
void run(Stream& s, void (*op)(Stream&, P...), std::type_identity_t<P>... args) {
  if (!s.device().on_cuda()) return op(s, args...);
  Visit visit(s);
  op(s, argument<P>(visit, args)...);
  visit.home();
}

// Tables with the kernels over tiles on a model of AMX (tile_model.h), one for each of the portable
// and AVX2 vectors that this machine runs.
std::vector<const cpu::Kernels*> tile_tables();

// Runs f(stream) with every table that has linear kernels of its own.
template <class F>
void each_table(F&& f) {
  each_isa(f);
  each_isa(f, tile_tables());
}

template <class F>
void each_linear(F&& f) {
  each_device(f);
  each_isa(f, tile_tables());
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
