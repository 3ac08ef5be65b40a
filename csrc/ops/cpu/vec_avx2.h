#pragma once
// V: 16 floats in two ymm registers.
#include <immintrin.h>

#include <cstdint>

namespace dream_r::cpu {
namespace {

struct V {
  __m256 lo, hi;
};
#define DR_INLINE static inline __attribute__((always_inline))

// All bits set in lanes [0, n) of 8.
DR_INLINE __m256i lanes(int n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
DR_INLINE V load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
DR_INLINE V load(const float* p, int n) {
  return {_mm256_maskload_ps(p, lanes(n)),
          n > 8 ? _mm256_maskload_ps(p + 8, lanes(n - 8)) : _mm256_setzero_ps()};
}
DR_INLINE __m256 widen(__m128i h) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16));
}
DR_INLINE V load(const std::uint16_t* p) {
  return {widen(_mm_loadu_si128((const __m128i*)p)), widen(_mm_loadu_si128((const __m128i*)p + 1))};
}
DR_INLINE void store(float* p, V a) {
  _mm256_storeu_ps(p, a.lo);
  _mm256_storeu_ps(p + 8, a.hi);
}
DR_INLINE void store(float* p, V a, int n) {
  _mm256_maskstore_ps(p, lanes(n), a.lo);
  if (n > 8) _mm256_maskstore_ps(p + 8, lanes(n - 8), a.hi);
}
DR_INLINE V set1(float f) { return {_mm256_set1_ps(f), _mm256_set1_ps(f)}; }
DR_INLINE V operator+(V a, V b) { return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)}; }
DR_INLINE V operator-(V a, V b) { return {_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)}; }
DR_INLINE V operator*(V a, V b) { return {_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)}; }
DR_INLINE V operator/(V a, V b) { return {_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)}; }
DR_INLINE V fma(V a, V b, V c) {
  return {_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
}
// sum = fma(a, b, sum), in its own registers: where sums fill them all, the compiler otherwise lets
// one wander into a factor's and spills.
DR_INLINE __m256 plus_product(__m256 sum, __m256 a, __m256 b) {
  asm("vfmadd231ps %1, %2, %0" : "+x"(sum) : "x"(b), "x"(a));
  return sum;
}
DR_INLINE void add_product(V& sum, V a, V b) {
  sum = {plus_product(sum.lo, a.lo, b.lo), plus_product(sum.hi, a.hi, b.hi)};
}
// The second operand where either is NaN.
DR_INLINE V max(V a, V b) { return {_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)}; }
DR_INLINE V min(V a, V b) { return {_mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi)}; }
DR_INLINE V round(V a) { return {_mm256_round_ps(a.lo, 8), _mm256_round_ps(a.hi, 8)}; }
// a < b ? x : y
DR_INLINE V if_less(V a, V b, V x, V y) {
  return {_mm256_blendv_ps(y.lo, x.lo, _mm256_cmp_ps(a.lo, b.lo, _CMP_LT_OQ)),
          _mm256_blendv_ps(y.hi, x.hi, _mm256_cmp_ps(a.hi, b.hi, _CMP_LT_OQ))};
}
// Lanes [n, 16) become b.
DR_INLINE V keep(V a, int n, V b) {
  return {_mm256_blendv_ps(b.lo, a.lo, _mm256_castsi256_ps(lanes(n))),
          _mm256_blendv_ps(b.hi, a.hi, _mm256_castsi256_ps(lanes(n - 8)))};
}
DR_INLINE __m256 scale2_half(__m256 a, __m256 n) {
  const __m256i bits = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
  return _mm256_mul_ps(a, _mm256_castsi256_ps(_mm256_slli_epi32(bits, 23)));
}
// a * 2^n for integral n in [-126, 127].
DR_INLINE V scale2(V a, V n) { return {scale2_half(a.lo, n.lo), scale2_half(a.hi, n.hi)}; }
DR_INLINE float sum(V a) {
  const __m256 s = _mm256_add_ps(a.lo, a.hi);
  __m128 t = _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
  t = _mm_add_ps(t, _mm_movehl_ps(t, t));
  return _mm_cvtss_f32(_mm_add_ss(t, _mm_movehdup_ps(t)));
}
DR_INLINE float first(V a) { return _mm256_cvtss_f32(a.lo); }
DR_INLINE float hmax(V a) {
  const __m256 s = _mm256_max_ps(a.lo, a.hi);
  __m128 t = _mm_max_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
  t = _mm_max_ps(t, _mm_movehl_ps(t, t));
  return _mm_cvtss_f32(_mm_max_ss(t, _mm_movehdup_ps(t)));
}
// The larger of `most` (>= 0) and |a| by their bits: infinity and NaN stay.
DR_INLINE __m256 larger_half(__m256 most, __m256 a) {
  const __m256i size = _mm256_and_si256(_mm256_castps_si256(a), _mm256_set1_epi32(0x7fffffff));
  return _mm256_castsi256_ps(_mm256_max_epi32(_mm256_castps_si256(most), size));
}
DR_INLINE V larger(V most, V a) { return {larger_half(most.lo, a.lo), larger_half(most.hi, a.hi)}; }
// The largest lane of a (>= 0) by its bits.
DR_INLINE float largest(V a) {
  const __m256i s = _mm256_max_epi32(_mm256_castps_si256(a.lo), _mm256_castps_si256(a.hi));
  __m128i t = _mm_max_epi32(_mm256_castsi256_si128(s), _mm256_extracti128_si256(s, 1));
  t = _mm_max_epi32(t, _mm_shuffle_epi32(t, 0x4e));
  return _mm_cvtss_f32(_mm_castsi128_ps(_mm_max_epi32(t, _mm_shuffle_epi32(t, 0xb1))));
}
DR_INLINE __m256d halves_f64(__m256 a) {
  return _mm256_add_pd(_mm256_cvtps_pd(_mm256_castps256_ps128(a)),
                       _mm256_cvtps_pd(_mm256_extractf128_ps(a, 1)));
}
DR_INLINE double sum_f64(V a) {
  const __m256d s = _mm256_add_pd(halves_f64(a.lo), halves_f64(a.hi));
  const __m128d t = _mm_add_pd(_mm256_castpd256_pd128(s), _mm256_extractf128_pd(s, 1));
  return _mm_cvtsd_f64(_mm_add_sd(t, _mm_unpackhi_pd(t, t)));
}
DR_INLINE __m256 round_half(__m256 a) {
  const __m256i u = _mm256_castps_si256(a);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
  const __m256i up = _mm256_add_epi32(u, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
  const __m256i nan = _mm256_or_si256(u, _mm256_set1_epi32(0x400000));
  const __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(a, a, _CMP_UNORD_Q));
  const __m256i mixed = _mm256_blendv_epi8(up, nan, is_nan);
  return _mm256_castsi256_ps(_mm256_and_si256(mixed, _mm256_set1_epi32((int)0xffff0000)));
}
// The nearest bf16 values, ties to even.
DR_INLINE V round_bf16(V a) { return {round_half(a.lo), round_half(a.hi)}; }
// Keeps a loaded value in a register; else the compiler folds the load into each of its uses.
DR_INLINE V pin(V a) {
  asm("" : "+x"(a.lo), "+x"(a.hi));
  return a;
}
DR_INLINE void prefetch(const void* p) { _mm_prefetch((const char*)p, _MM_HINT_T0); }

// 16 pairs of bf16: the first and the second of each.
struct Pairs {
  V even, odd;
};
DR_INLINE __m256 even_of(__m256i w) { return _mm256_castsi256_ps(_mm256_slli_epi32(w, 16)); }
DR_INLINE __m256 odd_of(__m256i w) {
  return _mm256_castsi256_ps(_mm256_and_si256(w, _mm256_set1_epi32((int)0xffff0000)));
}
DR_INLINE Pairs load_pairs(const std::uint16_t* p) {
  const __m256i lo = _mm256_loadu_si256((const __m256i*)p);
  const __m256i hi = _mm256_loadu_si256((const __m256i*)p + 1);
  return {{even_of(lo), even_of(hi)}, {odd_of(lo), odd_of(hi)}};
}

// The second of each pair by two shifts, the sums that this serves leaving no register to a mask.
DR_INLINE __m256 shifted_odd(__m256i w) {
  __m256i low = _mm256_srli_epi32(w, 16);
  asm("" : "+x"(low));
  return even_of(low);
}

// The first or the second of each of 16 pairs.
DR_INLINE V half_of_pairs(const std::uint16_t* p, int half) {
  const __m256i lo = _mm256_loadu_si256((const __m256i*)p);
  const __m256i hi = _mm256_loadu_si256((const __m256i*)p + 1);
  return half ? V{shifted_odd(lo), shifted_odd(hi)} : V{even_of(lo), even_of(hi)};
}

// 16 words of eight nibbles.
struct Words {
  __m256i lo, hi;
};
DR_INLINE Words load_words(const std::uint32_t* p) {
  return {_mm256_loadu_si256((const __m256i*)p), _mm256_loadu_si256((const __m256i*)p + 1)};
}
// The four bytes at p, 16 times.
DR_INLINE Words all_words(const char* p) {
  const __m256i w = _mm256_castps_si256(_mm256_broadcast_ss((const float*)p));
  return {w, w};
}
// a b, summed over the two signed halves of each word.
DR_INLINE Words products(Words a, Words b) {
  return {_mm256_madd_epi16(a.lo, b.lo), _mm256_madd_epi16(a.hi, b.hi)};
}
// sum += products(a, b); a is one word in all lanes. In assembly for the order of its four
// instructions: left to itself the compiler makes all products first and keeps sums in memory, for
// want of registers.
DR_INLINE void add_products(Words& sum, Words a, Words b) {
  __m256i product;
  asm volatile(
      "vpmaddwd %4, %3, %2\n\tvpaddd %2, %0, %0\n\t"
      "vpmaddwd %5, %3, %2\n\tvpaddd %2, %1, %1"
      : "+x"(sum.lo), "+x"(sum.hi), "=&x"(product)
      : "x"(a.lo), "x"(b.lo), "x"(b.hi));
}
DR_INLINE Words pin(Words w) {
  asm("" : "+x"(w.lo), "+x"(w.hi));
  return w;
}
DR_INLINE V to_floats(Words w) { return {_mm256_cvtepi32_ps(w.lo), _mm256_cvtepi32_ps(w.hi)}; }
// 16 numbers of at most 15 bits, to the nearest even.
DR_INLINE void store_i16(std::int16_t* p, V a) {
  const __m256i both = _mm256_packs_epi32(_mm256_cvtps_epi32(a.lo), _mm256_cvtps_epi32(a.hi));
  _mm256_storeu_si256((__m256i*)p, _mm256_permute4x64_epi64(both, 0xd8));
}
template <int J>
DR_INLINE __m256 placed_half(__m256i w) {
  const __m256i one =
      J < 7 ? _mm256_and_si256(w, _mm256_set1_epi32(15 << 4 * (J % 7))) : _mm256_srli_epi32(w, 28);
  return _mm256_cvtepi32_ps(one);
}
// Nibble J of each word, 0 to 15, times 2^(4 J); nibble 7, which would meet the sign, as it is.
template <int J>
DR_INLINE V placed_nibble(Words w) {
  return {placed_half<J>(w.lo), placed_half<J>(w.hi)};
}
// The words as floats, their low nibble taken as zero.
DR_INLINE V above_nibble(Words w) {
  const __m256i low = _mm256_set1_epi32(15);
  return {_mm256_castsi256_ps(_mm256_andnot_si256(low, w.lo)),
          _mm256_castsi256_ps(_mm256_andnot_si256(low, w.hi))};
}

// Register tiles of the linear kernels, rows by panels, within 16 registers (a V is two).
constexpr int kTileRows = 5, kTilePanels = 1, kFewRows = 1, kFewPanels = 4, kGemvPanels = 3;
// bf16, pairs read in turn: twelve registers of sums, two of weights, one of x.
constexpr bool kPairsInTurn = true;
constexpr int kGemvPanelsBf16 = 4;  // eight sums, one panel's pairs at a time
constexpr int kTileRowsBf16 = 6, kFewRowsBf16 = 3, kFewPanelsBf16 = 2;
// The same of w4: one row by three panels keeps six chains of multiply-adds going (with two it
// waits for them), two rows by two panels eight.
constexpr int kGemvPanelsW4 = 3, kFewRowsW4 = 2, kFewPanelsW4 = 2;

// i16: twelve sums, two of weights, one of x, one of products.
constexpr int kTileRowsI16 = 6, kFewRowsI16 = 1, kFewPanelsI16 = 2, kGemvPanelsI16 = 5;
// Products a cycle, FMA's being 1: an instruction makes 16 where FMA makes 8, and a second adds
// them.
constexpr double kI16Rate = 1.3;
// Attention: rows at a time, and the sums that keep multiply-adds busy.
constexpr int kAttentionRows = 6, kAttentionSums = 4;

// Bytes ahead that each panel's stream asks for: beyond the caches the hardware prefetcher alone
// stops at every 4 KiB page. On Zen 512 took 15 % less time than 1024.
constexpr int kPrefetchBytes = 512;
constexpr int kPrefetchBytesW4 = 256;  // a line takes longer: 10 % less time than 512

}  // namespace
}  // namespace dream_r::cpu
