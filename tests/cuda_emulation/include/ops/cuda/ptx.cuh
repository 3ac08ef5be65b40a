#pragma once
// Stand-in for csrc/ops/cuda/ptx.cuh: the same functions, by the fragments of the PTX ISA.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <cstring>

namespace dream_r::cuda {

namespace emulated {

struct Mma {
  float* d;
  const std::uint32_t *a, *b;
};

inline double bf16_of(std::uint32_t pair, int i) {
  return std::bit_cast<float>(i ? pair & 0xffff0000u : pair << 16);
}
inline double f16_of(std::uint32_t pair, int i) {
  return __half2float(__ushort_as_half(static_cast<unsigned short>(i ? pair >> 16 : pair)));
}

// All lanes' fragments become the two matrices, and their product the lanes' sums.
template <double (*half_of)(std::uint32_t pair, int i)>
void multiply(void* const* payload, std::uint32_t) {
  double a[16][16], b[16][8];
  for (int lane = 0; lane < 32; ++lane) {
    const auto& m = *static_cast<const Mma*>(payload[lane]);
    const int g = lane / 4, t = lane % 4;
    for (int i = 0; i < 8; ++i) {
      const int row = g + i / 2 % 2 * 8, k = 2 * t + i % 2 + i / 4 * 8;
      a[row][k] = half_of(m.a[i / 2], i % 2);
      if (i < 4) b[2 * t + i % 2 + i / 2 * 8][g] = half_of(m.b[i / 2], i % 2);
    }
  }
  for (int lane = 0; lane < 32; ++lane) {
    const auto& m = *static_cast<const Mma*>(payload[lane]);
    for (int i = 0; i < 4; ++i) {
      const int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
      double sum = m.d[i];
      for (int k = 0; k < 16; ++k) sum += a[row][k] * b[k][column];
      m.d[i] = static_cast<float>(sum);
    }
  }
}

struct Load {
  std::uint32_t* r;
  const void* row;
  int matrices;
  bool trans;
};

inline void load_matrices(void* const* payload, std::uint32_t) {
  const auto of = [&](int lane) -> const Load& { return *static_cast<const Load*>(payload[lane]); };
  const Load& any = of(0);
  for (int i = 0; i < any.matrices; ++i) {
    std::uint16_t matrix[8][8];
    for (int j = 0; j < 8; ++j) std::memcpy(matrix[j], of(8 * i + j).row, 16);
    for (int lane = 0; lane < 32; ++lane) {
      const int g = lane / 4, t = lane % 4;
      const std::uint32_t low = any.trans ? matrix[2 * t][g] : matrix[g][2 * t];
      const std::uint32_t high = any.trans ? matrix[2 * t + 1][g] : matrix[g][2 * t + 1];
      of(lane).r[i] = low | high << 16;
    }
  }
}

inline void check_aligned(const char* what, const void* p) {
  if (reinterpret_cast<std::uintptr_t>(p) % 16)
    cuda_emulation::fault(std::string(what) + ": an address that is not 16-byte aligned");
}

inline void ldmatrix(std::uint32_t* r, const void* row, int matrices, bool trans,
                     std::source_location at) {
  if (cuda_emulation::lane() < 8 * matrices) check_aligned("ldmatrix", row);
  Load mine{r, row, matrices, trans};
  cuda_emulation::warp_operation("ldmatrix", 0xffffffffu, &mine, load_matrices, at);
}

}  // namespace emulated

#define DR_AT std::source_location at = std::source_location::current()

inline void mma_bf16(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2],
                     DR_AT) {
  emulated::Mma mine{d, a, b};
  cuda_emulation::warp_operation("mma", 0xffffffffu, &mine, emulated::multiply<emulated::bf16_of>,
                                 at);
}
inline void mma_f16(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2],
                    DR_AT) {
  emulated::Mma mine{d, a, b};
  cuda_emulation::warp_operation("mma", 0xffffffffu, &mine, emulated::multiply<emulated::f16_of>,
                                 at);
}
inline void ldmatrix_x4(std::uint32_t (&r)[4], const void* row, DR_AT) {
  emulated::ldmatrix(r, row, 4, false, at);
}
inline void ldmatrix_x4_trans(std::uint32_t (&r)[4], const void* row, DR_AT) {
  emulated::ldmatrix(r, row, 4, true, at);
}
inline void ldmatrix_x2(std::uint32_t (&r)[2], const void* row, DR_AT) {
  emulated::ldmatrix(r, row, 2, false, at);
}
inline void ldmatrix_x2_trans(std::uint32_t (&r)[2], const void* row, DR_AT) {
  emulated::ldmatrix(r, row, 2, true, at);
}
#undef DR_AT

inline std::uint32_t f16_pair(float low, float high) {
  const auto one = [](float x) -> std::uint32_t {  // a comparison with NaN keeps it
    return __half_as_ushort(__float2half_rn(x > 65504.0f    ? 65504.0f
                                            : x < -65504.0f ? -65504.0f
                                                            : x));
  };
  return one(low) | one(high) << 16;
}

inline void cp_async_16(void* shared, const void* global, int bytes = 16) {
  emulated::check_aligned("cp.async", shared);
  emulated::check_aligned("cp.async", global);
  cuda_emulation::copy_later(shared, global, 16, static_cast<std::size_t>(bytes));
}
inline void cp_async_commit() { cuda_emulation::close_copy_group(); }
template <int kOpen>
void cp_async_wait() {
  cuda_emulation::wait_copy_groups(kOpen);
}

inline uint4 load_once(const void* global) {
  emulated::check_aligned("load_once", global);
  uint4 v;
  std::memcpy(&v, global, sizeof v);
  return v;
}

inline void prefetch(const void*) {}

template <int kTable>
std::uint32_t lop3(std::uint32_t a, std::uint32_t b, std::uint32_t c) {
  std::uint32_t r = 0;
  for (int i = 0; i < 32; ++i) {
    const std::uint32_t pick = (a >> i & 1u) * 4 + (b >> i & 1u) * 2 + (c >> i & 1u);
    r |= (static_cast<std::uint32_t>(kTable) >> pick & 1u) << i;
  }
  return r;
}

inline float exp2_fast(float x) { return x < -126.0f ? 0.0f : std::exp2(x); }

inline void wait_for_previous_kernel() { cuda_emulation::wait_for_previous_kernel(); }
inline void let_next_kernel_start() { cuda_emulation::let_next_kernel_start(); }

}  // namespace dream_r::cuda
