#pragma once
// V: 16 floats as a compiler vector, lowered to whatever the target has (SSE2, NEON, scalars). No
// fused multiply-add: without the instruction it would be a library call.
#include <cstdint>

namespace dream_r::cpu {
namespace {

typedef float F16 __attribute__((vector_size(64)));
typedef std::int32_t I16 __attribute__((vector_size(64)));
typedef std::uint32_t U16 __attribute__((vector_size(64)));
struct V {
  F16 v;
};
#define DR_INLINE static inline __attribute__((always_inline))

DR_INLINE I16 lane_ids() { return I16{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}; }
DR_INLINE V load(const float* p) {
  V a;
  __builtin_memcpy(&a.v, p, 64);
  return a;
}
DR_INLINE V load(const float* p, int n) {
  V a{};
  for (int i = 0; i < n; ++i) a.v[i] = p[i];
  return a;
}
DR_INLINE V load(const std::uint16_t* p) {
  U16 u;
  for (int i = 0; i < 16; ++i) u[i] = (std::uint32_t)p[i] << 16;
  return {(F16)u};
}
DR_INLINE void store(float* p, V a) { __builtin_memcpy(p, &a.v, 64); }
DR_INLINE void store(float* p, V a, int n) {
  for (int i = 0; i < n; ++i) p[i] = a.v[i];
}
DR_INLINE V set1(float f) { return {f - F16{}}; }
DR_INLINE V operator+(V a, V b) { return {a.v + b.v}; }
DR_INLINE V operator-(V a, V b) { return {a.v - b.v}; }
DR_INLINE V operator*(V a, V b) { return {a.v * b.v}; }
DR_INLINE V operator/(V a, V b) { return {a.v / b.v}; }
DR_INLINE V fma(V a, V b, V c) { return {a.v * b.v + c.v}; }
DR_INLINE V blend(I16 mask, V x, V y) { return {(F16)((mask & (I16)x.v) | (~mask & (I16)y.v))}; }
// a < b ? x : y
DR_INLINE V if_less(V a, V b, V x, V y) { return blend(a.v < b.v, x, y); }
DR_INLINE void add_product(V& sum, V a, V b) { sum = fma(a, b, sum); }
// The second operand where either is NaN.
DR_INLINE V max(V a, V b) { return if_less(b, a, a, b); }
DR_INLINE V min(V a, V b) { return if_less(a, b, a, b); }
// To nearest even, |a| < 2^22.
DR_INLINE V round(V a) {
  const V magic = set1(12582912.0f);  // 1.5 * 2^23
  return (a + magic) - magic;
}
// Lanes [n, 16) become b.
DR_INLINE V keep(V a, int n, V b) { return blend(lane_ids() < (n - I16{}), a, b); }
// a * 2^n for integral n in [-126, 127].
DR_INLINE V scale2(V a, V n) {
  const I16 bits = (__builtin_convertvector(n.v, I16) + 127) << 23;
  return {a.v * (F16)bits};
}
DR_INLINE float sum(V a) {
  float t[16];
  store(t, a);
  for (int width = 8; width > 0; width /= 2)
    for (int i = 0; i < width; ++i) t[i] += t[i + width];
  return t[0];
}
DR_INLINE float first(V a) { return a.v[0]; }
DR_INLINE float hmax(V a) {
  float t[16];
  store(t, a);
  for (int i = 1; i < 16; ++i) t[0] = t[i] > t[0] ? t[i] : t[0];
  return t[0];
}
// The larger of `most` (>= 0) and |a| by their bits: infinity and NaN stay.
DR_INLINE V larger(V most, V a) {
  const I16 m = (I16)most.v, size = (I16)a.v & 0x7fffffff;
  return {(F16)(m > size ? m : size)};
}
// The largest lane of a (>= 0) by its bits.
DR_INLINE float largest(V a) {
  I16 t = (I16)a.v;
  for (int i = 1; i < 16; ++i) t[0] = t[i] > t[0] ? t[i] : t[0];
  return ((F16)t)[0];
}
DR_INLINE double sum_f64(V a) {
  double s = 0;
  for (int i = 0; i < 16; ++i) s += (double)a.v[i];
  return s;
}
// The nearest bf16 values, ties to even.
DR_INLINE V round_bf16(V a) {
  const U16 u = (U16)a.v;
  const U16 up = u + 0x7fffu + ((u >> 16) & 1u);
  const U16 is_nan = (U16)(a.v != a.v);
  return {(F16)(((is_nan & (u | 0x400000u)) | (~is_nan & up)) & 0xffff0000u)};
}
DR_INLINE V pin(V a) { return a; }
DR_INLINE void prefetch(const void* p) { __builtin_prefetch(p); }

// 16 pairs of bf16: the first and the second of each.
struct Pairs {
  V even, odd;
};
DR_INLINE Pairs load_pairs(const std::uint16_t* p) {
  U16 u;
  __builtin_memcpy(&u, p, 64);
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
  return {{(F16)(u & 0xffff0000u)}, {(F16)(u << 16)}};
#else
  return {{(F16)(u << 16)}, {(F16)(u & 0xffff0000u)}};
#endif
}

DR_INLINE V half_of_pairs(const std::uint16_t* p, int half) {
  const Pairs pairs = load_pairs(p);
  return half ? pairs.odd : pairs.even;
}

// 16 words of eight nibbles.
struct Words {
  U16 v;
};
DR_INLINE Words load_words(const std::uint32_t* p) {
  Words w;
  __builtin_memcpy(&w.v, p, 64);
  return w;
}
// The four bytes at p, 16 times.
DR_INLINE Words all_words(const char* p) {
  std::uint32_t w;
  __builtin_memcpy(&w, p, 4);
  return {w - U16{}};
}
// a b, summed over the two signed halves of each word.
DR_INLINE Words products(Words a, Words b) {
  const I16 a0 = (I16)(a.v << 16) >> 16, b0 = (I16)(b.v << 16) >> 16;
  const I16 a1 = (I16)a.v >> 16, b1 = (I16)b.v >> 16;
  return {(U16)(a0 * b0) + (U16)(a1 * b1)};
}
DR_INLINE void add_products(Words& sum, Words a, Words b) { sum.v += products(a, b).v; }
DR_INLINE Words pin(Words w) { return w; }
DR_INLINE V to_floats(Words w) { return {__builtin_convertvector((I16)w.v, F16)}; }
// 16 numbers of at most 15 bits, to the nearest even; NaN becomes any.
DR_INLINE void store_i16(std::int16_t* p, V a) {
  const V r = round(a);
  for (int i = 0; i < 16; ++i)
    p[i] = static_cast<std::int16_t>(r.v[i] >= -32768 && r.v[i] <= 32767 ? r.v[i] : 0);
}
// Nibble J of each word, 0 to 15, times 2^(4 J); nibble 7, which would meet the sign, as it is.
template <int J>
DR_INLINE V placed_nibble(Words w) {
  const U16 one = J < 7 ? w.v & (15u << 4 * (J % 7)) : w.v >> 28;
  return {__builtin_convertvector((I16)one, F16)};
}
// The words as floats, their low nibble taken as zero.
DR_INLINE V above_nibble(Words w) { return {(F16)(w.v & ~15u)}; }

constexpr int kTileRows = 2, kTilePanels = 1, kFewRows = 1, kFewPanels = 2, kGemvPanels = 2;
constexpr int kGemvPanelsW4 = 2, kFewRowsW4 = kFewRows, kFewPanelsW4 = kFewPanels;

constexpr bool kPairsInTurn = false;
constexpr int kGemvPanelsBf16 = kGemvPanels;
constexpr int kTileRowsBf16 = kTileRows, kFewRowsBf16 = kFewRows, kFewPanelsBf16 = kFewPanels;
constexpr int kTileRowsI16 = kTileRows, kFewRowsI16 = kFewRows, kFewPanelsI16 = kFewPanels;
constexpr int kGemvPanelsI16 = kGemvPanels;
constexpr double kI16Rate = 1;
// Attention: rows at a time, and the sums that keep multiply-adds busy.
constexpr int kAttentionRows = 4, kAttentionSums = 2;

// Bytes ahead that each panel's stream asks for: beyond the caches the hardware prefetcher alone
// stops at every 4 KiB page.
constexpr int kPrefetchBytes = 1024, kPrefetchBytesW4 = kPrefetchBytes;

}  // namespace
}  // namespace dream_r::cpu
