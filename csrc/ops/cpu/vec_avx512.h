#pragma once
// V: 16 floats in one zmm register.
#include <immintrin.h>

#include <cstdint>

namespace dream_r::cpu {
namespace {

struct V {
  __m512 v;
};
#define DR_INLINE static inline __attribute__((always_inline))

DR_INLINE __mmask16 lanes(int n) { return static_cast<__mmask16>((1u << n) - 1u); }  // n <= 16
DR_INLINE V load(const float* p) { return {_mm512_loadu_ps(p)}; }
DR_INLINE V load(const float* p, int n) { return {_mm512_maskz_loadu_ps(lanes(n), p)}; }
DR_INLINE V load(const std::uint16_t* p) {
  const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(wide, 16))};
}
DR_INLINE void store(float* p, V a) { _mm512_storeu_ps(p, a.v); }
DR_INLINE void store(float* p, V a, int n) { _mm512_mask_storeu_ps(p, lanes(n), a.v); }
DR_INLINE V set1(float f) { return {_mm512_set1_ps(f)}; }
DR_INLINE V operator+(V a, V b) { return {_mm512_add_ps(a.v, b.v)}; }
DR_INLINE V operator-(V a, V b) { return {_mm512_sub_ps(a.v, b.v)}; }
DR_INLINE V operator*(V a, V b) { return {_mm512_mul_ps(a.v, b.v)}; }
DR_INLINE V operator/(V a, V b) { return {_mm512_div_ps(a.v, b.v)}; }
DR_INLINE V fma(V a, V b, V c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
DR_INLINE void add_product(V& sum, V a, V b) { sum = fma(a, b, sum); }
// The second operand where either is NaN.
DR_INLINE V max(V a, V b) { return {_mm512_max_ps(a.v, b.v)}; }
DR_INLINE V min(V a, V b) { return {_mm512_min_ps(a.v, b.v)}; }
DR_INLINE V round(V a) { return {_mm512_roundscale_ps(a.v, 8)}; }
// a < b ? x : y
DR_INLINE V if_less(V a, V b, V x, V y) {
  return {_mm512_mask_blend_ps(_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ), y.v, x.v)};
}
// Lanes [n, 16) become b.
DR_INLINE V keep(V a, int n, V b) { return {_mm512_mask_blend_ps(lanes(n), b.v, a.v)}; }
// a * 2^n for integral n in [-126, 127].
DR_INLINE V scale2(V a, V n) { return {_mm512_scalef_ps(a.v, n.v)}; }
DR_INLINE float sum(V a) { return _mm512_reduce_add_ps(a.v); }
DR_INLINE float first(V a) { return _mm512_cvtss_f32(a.v); }
DR_INLINE float hmax(V a) { return _mm512_reduce_max_ps(a.v); }
// The larger of `most` (>= 0) and |a| by their bits: infinity and NaN stay.
DR_INLINE V larger(V most, V a) {
  const __m512i size = _mm512_and_si512(_mm512_castps_si512(a.v), _mm512_set1_epi32(0x7fffffff));
  return {_mm512_castsi512_ps(_mm512_max_epi32(_mm512_castps_si512(most.v), size))};
}
// The largest lane of a (>= 0) by its bits.
DR_INLINE float largest(V a) {
  const int bits = _mm512_reduce_max_epi32(_mm512_castps_si512(a.v));
  return _mm_cvtss_f32(_mm_castsi128_ps(_mm_cvtsi32_si128(bits)));
}
DR_INLINE double sum_f64(V a) {
  const __m512d lo = _mm512_cvtps_pd(_mm512_castps512_ps256(a.v));
  const __m512d hi = _mm512_cvtps_pd(_mm512_extractf32x8_ps(a.v, 1));
  return _mm512_reduce_add_pd(_mm512_add_pd(lo, hi));
}
// The nearest bf16 values, ties to even.
DR_INLINE V round_bf16(V a) {
  const __m512i u = _mm512_castps_si512(a.v);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
  const __m512i up = _mm512_add_epi32(u, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  const __m512i nan = _mm512_or_si512(u, _mm512_set1_epi32(0x400000));
  const __mmask16 is_nan = _mm512_cmp_ps_mask(a.v, a.v, _CMP_UNORD_Q);
  const __m512i mixed = _mm512_mask_blend_epi32(is_nan, up, nan);
  return {_mm512_castsi512_ps(_mm512_and_si512(mixed, _mm512_set1_epi32((int)0xffff0000)))};
}
// Keeps a loaded value in a register; else the compiler folds the load into each of its uses.
DR_INLINE V pin(V a) {
  asm("" : "+v"(a.v));
  return a;
}
DR_INLINE void prefetch(const void* p) { _mm_prefetch((const char*)p, _MM_HINT_T0); }

// 16 pairs of bf16: the first and the second of each.
struct Pairs {
  V even, odd;
};
DR_INLINE Pairs load_pairs(const std::uint16_t* p) {
  const __m512i w = _mm512_loadu_si512(p);
  return {{_mm512_castsi512_ps(_mm512_slli_epi32(w, 16))},
          {_mm512_castsi512_ps(_mm512_and_si512(w, _mm512_set1_epi32((int)0xffff0000)))}};
}

DR_INLINE V half_of_pairs(const std::uint16_t* p, int half) {
  const Pairs pairs = load_pairs(p);
  return half ? pairs.odd : pairs.even;
}

// 16 words of eight nibbles.
struct Words {
  __m512i v;
};
DR_INLINE Words load_words(const std::uint32_t* p) { return {_mm512_loadu_si512(p)}; }
// The four bytes at p, 16 times.
DR_INLINE Words all_words(const char* p) {
  std::int32_t w;
  __builtin_memcpy(&w, p, 4);
  return {_mm512_set1_epi32(w)};
}
// a b, summed over the two signed halves of each word.
DR_INLINE Words products(Words a, Words b) { return {_mm512_madd_epi16(a.v, b.v)}; }
// sum += products(a, b), computed here and not later: with all products first there were no
// registers left.
DR_INLINE void add_products(Words& sum, Words a, Words b) {
  sum.v = _mm512_add_epi32(sum.v, products(a, b).v);
  asm volatile("" : "+v"(sum.v)::"memory");
}
DR_INLINE Words pin(Words w) {
  asm("" : "+v"(w.v));
  return w;
}
DR_INLINE V to_floats(Words w) { return {_mm512_cvtepi32_ps(w.v)}; }
// 16 numbers of at most 15 bits, to the nearest even.
DR_INLINE void store_i16(std::int16_t* p, V a) {
  _mm256_storeu_si256((__m256i*)p, _mm512_cvtsepi32_epi16(_mm512_cvtps_epi32(a.v)));
}
// Nibble J of each word, 0 to 15, times 2^(4 J); nibble 7, which would meet the sign, as it is.
template <int J>
DR_INLINE V placed_nibble(Words w) {
  const __m512i one = J < 7 ? _mm512_and_si512(w.v, _mm512_set1_epi32(15 << 4 * (J % 7)))
                            : _mm512_srli_epi32(w.v, 28);
  return {_mm512_cvtepi32_ps(one)};
}
// The words as floats, their low nibble taken as zero.
DR_INLINE V above_nibble(Words w) {
  return {_mm512_castsi512_ps(_mm512_andnot_si512(_mm512_set1_epi32(15), w.v))};
}

// Register tiles of the linear kernels: up to kTileRows rows by two panels or kFewRows rows by four
// keep accumulators, widened weights and a broadcast within 32 registers.
constexpr int kTileRows = 12, kTilePanels = 2, kFewRows = 6, kFewPanels = 4, kGemvPanels = 8;
// The same of w4: three instructions a weight of one row, so four panels fill the ports.
constexpr int kGemvPanelsW4 = 4, kFewRowsW4 = kFewRows, kFewPanelsW4 = kFewPanels;

constexpr bool kPairsInTurn = false;
constexpr int kGemvPanelsBf16 = kGemvPanels;
constexpr int kTileRowsBf16 = kTileRows, kFewRowsBf16 = kFewRows, kFewPanelsBf16 = kFewPanels;
constexpr int kTileRowsI16 = kTileRows, kFewRowsI16 = kFewRows, kFewPanelsI16 = kFewPanels;
constexpr int kGemvPanelsI16 = kGemvPanels;
constexpr double kI16Rate = 1;
// Attention: rows at a time, and the sums that keep multiply-adds busy.
constexpr int kAttentionRows = 4, kAttentionSums = 8;

// Bytes ahead that each panel's stream asks for: beyond the caches the hardware prefetcher alone
// stops at every 4 KiB page.
constexpr int kPrefetchBytes = 1024, kPrefetchBytesW4 = kPrefetchBytes;

}  // namespace
}  // namespace dream_r::cpu
