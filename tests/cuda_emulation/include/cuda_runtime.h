#pragma once
// Stand-in for CUDA's kernel language, so that an unchanged .cu file compiles as C++ and runs on
// the emulated device.
#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <source_location>
#include <tuple>
#include <type_traits>

#include "block.h"
#include "cuda_runtime_api.h"
#include "device.h"

#define __global__
#define __device__
#define __host__
#define __shared__ static
#define __constant__ static const
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(n) __attribute__((aligned(n)))
#define DR_DYNAMIC_SHARED(type, name) \
  type* const name = static_cast<type*>(cuda_emulation::dynamic_shared())

// ---- launches
// --------------------------------------------------------------------------------------
template <class... P, class... A>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(P...),
                               A&&... args) {
  std::tuple<P...> params(std::forward<A>(args)...);
  std::array<const void*, sizeof...(P) + 1> pointers{};
  std::size_t count = 0;
  const auto note = [&](const auto& p) {
    if constexpr (std::is_pointer_v<std::decay_t<decltype(p)>>) pointers[count++] = p;
  };
  std::apply([&](const auto&... p) { (note(p), ...); }, params);
  const auto dim = [](const dim3& d) { return cuda_emulation::Dim{d.x, d.y, d.z}; };
  const cuda_emulation::Kernel run{
      dim(config->gridDim), dim(config->blockDim), config->dynamicSmemBytes,
      [kernel, params] { std::apply(kernel, params); }, cuda_emulation::starts_early(*config)};
  return cuda_emulation::launch(config->stream, reinterpret_cast<const void*>(kernel), run,
                                {pointers.data(), count});
}
template <class... P>
cudaError_t cudaFuncSetAttribute(void (*kernel)(P...), cudaFuncAttribute, int value) {
  return cuda_emulation::allow_dynamic_shared(reinterpret_cast<const void*>(kernel), value);
}

// ---- barriers, warp operations
// ---------------------------------------------------------------------
#define DR_AT std::source_location at = std::source_location::current()

inline void __syncthreads(DR_AT) { cuda_emulation::sync_block(at); }
inline void __syncwarp(unsigned mask = 0xffffffffu, DR_AT) {
  cuda_emulation::warp_operation("__syncwarp", mask, nullptr, nullptr, at);
}
inline void __threadfence() {}
inline void __threadfence_block() {}

namespace cuda_emulation {

// Lane i gets the value of lane source(i), or keeps its own where that is no lane of its `width`.
template <class T>
T exchange(const char* name, unsigned mask, T value, int from, std::source_location at) {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= 8);
  struct Payload {
    T value, result;
    int from;
  } mine{value, value, from};
  warp_operation(
      name, mask, &mine,
      [](void* const* payload, std::uint32_t mask) {
        for (int i = 0; i < 32; ++i) {
          auto* p = static_cast<Payload*>(payload[i]);
          if (!p) continue;
          // A lane outside the mask gives an undefined value: all bits set shows it.
          if (mask >> p->from & 1u)
            p->result = static_cast<Payload*>(payload[p->from])->value;
          else
            std::memset(&p->result, 0xff, sizeof(T));
        }
      },
      at);
  return mine.result;
}

// Every lane of the mask gets the same f(values).
template <class T, class R>
R together(const char* name, unsigned mask, T value, R (*reduce)(const T*, std::uint32_t),
           std::source_location at) {
  struct Payload {
    T value;
    R result;
    R (*reduce)(const T*, std::uint32_t);
  } mine{value, {}, reduce};
  warp_operation(
      name, mask, &mine,
      [](void* const* payload, std::uint32_t mask) {
        T values[32] = {};
        for (int i = 0; i < 32; ++i)
          if (payload[i]) values[i] = static_cast<Payload*>(payload[i])->value;
        for (int i = 0; i < 32; ++i) {
          if (!payload[i]) continue;
          auto* p = static_cast<Payload*>(payload[i]);
          p->result = p->reduce(values, mask);
        }
      },
      at);
  return mine.result;
}

template <class T, class F>
T fold(const T* values, std::uint32_t mask, F f) {
  T result = values[std::countr_zero(mask)];
  for (std::uint32_t l = mask & (mask - 1); l; l &= l - 1)
    result = f(result, values[std::countr_zero(l)]);
  return result;
}

}  // namespace cuda_emulation

template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, DR_AT) {
  const int lane = cuda_emulation::lane();
  return cuda_emulation::exchange("__shfl_sync", mask, value,
                                  lane / width * width + (source & (width - 1)), at);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32, DR_AT) {
  const int lane = cuda_emulation::lane(), from = lane ^ lanes;
  // Lanes of later groups cannot be read; those of earlier ones can.
  return cuda_emulation::exchange("__shfl_xor_sync", mask, value,
                                  from / width > lane / width ? lane : from, at);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, DR_AT) {
  const int lane = cuda_emulation::lane(), from = lane - static_cast<int>(delta);
  return cuda_emulation::exchange("__shfl_up_sync", mask, value,
                                  from < lane / width * width ? lane : from, at);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, DR_AT) {
  const int lane = cuda_emulation::lane(), from = lane + static_cast<int>(delta);
  return cuda_emulation::exchange("__shfl_down_sync", mask, value,
                                  from >= (lane / width + 1) * width ? lane : from, at);
}
inline unsigned __ballot_sync(unsigned mask, int predicate, DR_AT) {
  return cuda_emulation::together<int, unsigned>(
      "__ballot_sync", mask, predicate != 0,
      [](const int* v, std::uint32_t) {
        unsigned bits = 0;
        for (int i = 0; i < 32; ++i) bits |= static_cast<unsigned>(v[i]) << i;
        return bits;
      },
      at);
}
inline int __any_sync(unsigned mask, int predicate, DR_AT) {
  return __ballot_sync(mask, predicate, at) != 0;
}
inline int __all_sync(unsigned mask, int predicate, DR_AT) {
  return __ballot_sync(mask, predicate, at) == mask;
}
#define DR_REDUCE(name, expression)                                                    \
  template <class T>                                                                   \
  T name(unsigned mask, T value, DR_AT) {                                              \
    return cuda_emulation::together<T, T>(                                             \
        #name, mask, value,                                                            \
        [](const T* v, std::uint32_t m) {                                              \
          return cuda_emulation::fold(v, m, [](T a, T b) -> T { return expression; }); \
        },                                                                             \
        at);                                                                           \
  }
DR_REDUCE(__reduce_add_sync, a + b)
DR_REDUCE(__reduce_min_sync, a < b ? a : b)
DR_REDUCE(__reduce_max_sync, a > b ? a : b)
DR_REDUCE(__reduce_and_sync, a& b)
DR_REDUCE(__reduce_or_sync, a | b)
#undef DR_REDUCE
#undef DR_AT

// ---- atomics: one OS thread, so plain
// ---------------------------------------------------------------
#define DR_ATOMIC(name, expression)          \
  template <class T>                         \
  T name(T* at, std::type_identity_t<T> b) { \
    const T a = *at;                         \
    *at = expression;                        \
    return a;                                \
  }
DR_ATOMIC(atomicAdd, a + b)
DR_ATOMIC(atomicSub, a - b)
DR_ATOMIC(atomicMax, a > b ? a : b)
DR_ATOMIC(atomicMin, a < b ? a : b)
DR_ATOMIC(atomicOr, a | b)
DR_ATOMIC(atomicAnd, a& b)
DR_ATOMIC(atomicExch, b)
DR_ATOMIC(atomicInc, a >= b ? T{0} : a + 1)
#undef DR_ATOMIC
template <class T>
T atomicCAS(T* at, std::type_identity_t<T> compare, std::type_identity_t<T> value) {
  const T a = *at;
  if (a == compare) *at = value;
  return a;
}

// ---- arithmetic
// ------------------------------------------------------------------------------------
using std::isinf;
using std::isnan;
using std::max;
using std::min;
inline int __float_as_int(float x) { return std::bit_cast<int>(x); }
inline unsigned __float_as_uint(float x) { return std::bit_cast<unsigned>(x); }
inline float __int_as_float(int x) { return std::bit_cast<float>(x); }
inline float __uint_as_float(unsigned x) { return std::bit_cast<float>(x); }
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline void sincospi(double x, double* sine, double* cosine) {
  constexpr double kPi = 3.14159265358979323846;
  const double turn = x - 2.0 * std::rint(x / 2.0);
  *sine = std::sin(kPi * turn);
  *cosine = std::cos(kPi * turn);
}
inline float __expf(float x) { return std::exp(x); }
inline float __logf(float x) { return std::log(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline int __clz(int x) { return std::countl_zero(static_cast<unsigned>(x)); }
inline int __popc(unsigned x) { return std::popcount(x); }
inline int __ffs(int x) { return x ? std::countr_zero(static_cast<unsigned>(x)) + 1 : 0; }
inline unsigned __umulhi(unsigned a, unsigned b) {
  return static_cast<unsigned>(std::uint64_t{a} * b >> 32);
}
inline unsigned __byte_perm(unsigned a, unsigned b, unsigned selector) {
  const std::uint64_t bytes = std::uint64_t{b} << 32 | a;
  unsigned result = 0;
  for (int i = 0; i < 4; ++i) {
    const unsigned pick = selector >> 4 * i & 15u;
    unsigned byte = static_cast<unsigned>(bytes >> 8 * (pick & 7u)) & 0xffu;
    if (pick & 8u) byte = byte & 0x80u ? 0xffu : 0u;
    result |= byte << 8 * i;
  }
  return result;
}
template <class T>
T __ldg(const T* p) {
  return *p;
}
