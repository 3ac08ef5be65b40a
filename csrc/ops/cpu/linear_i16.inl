// out = x W^T in whole numbers: for every group along k, x and W are integers times a scale of
// their own, and a group's sum of products is exact in 32 bits (kernels.h). One instruction
// multiplies and adds 16 pairs, so processors without a bf16 product do twice the work of FMA in
// the same time, and no weight is widened first. The order of an output element in f32 (`fma`
// rounds twice in the portable table):
//
//   sum = 0; for every group, in order: sum = fma(float(products) * scale of x, scale of W, sum)
//
// A panel is, for each group, lines of 16 words (two neighbours along k of each output row) and a
// line of 16 scales; a row of x mirrors it with as many words and its scale.

// A group of x, `count` elements of it (the rest is zero), in whole numbers, and its scale behind
// them: NaN where there is what is no finite number, and so is every result of the row. A group of
// nothing but zeros and what is nearly zero becomes zeros.
template <int G>
DR_INLINE void i16_numbers(const float* x, int count, std::int16_t* to) {
  constexpr float kMost = i16_most(G), kTiny = 1e-30f;
  V v[G / 16], most = set1(0.0f);
#pragma GCC unroll 4
  for (int i = 0; i < G / 16; ++i) {
    const int n = count - 16 * i;
    v[i] = n >= 16 ? load(x + 16 * i) : load(x + 16 * i, n < 0 ? 0 : n);
    most = larger(most, v[i]);
  }
  const float m = largest(most);
  const V up = set1(m < kTiny ? 0.0f : kMost / m);
#pragma GCC unroll 4
  for (int i = 0; i < G / 16; ++i) store_i16(to + 16 * i, v[i] * up);
  const float scale = m * (1 / kMost) + (m - m);
  __builtin_memcpy(to + G, &scale, sizeof(float));
}

template <int G>
DR_INLINE void i16_row(const float* x, std::int64_t k, std::int16_t* to) {
  for (; k >= G; x += G, k -= G, to += G + 2) i16_numbers<G>(x, G, to);
  if (k > 0) i16_numbers<G>(x, static_cast<int>(k), to);
}

static void i16_values(const float* x, const RowShape& row, void* out) {
  auto* to = static_cast<std::int16_t*>(out);
  row.group == kI16Large ? i16_row<kI16Large>(x, row.k, to) : i16_row<kI16Small>(x, row.k, to);
}

struct I16Format {
  using Elem = std::uint32_t;
  static constexpr int kRows = kTileRowsI16;
  static constexpr int kK = 1;  // a step is one line
  static constexpr int kGemv = kGemvPanelsI16, kFew = kFewRowsI16, kWide = kFewPanelsI16;
  DR_INLINE bool poor(std::int64_t) { return false; }

  // Adds a line's products to `d`, or begins it with them.
  template <int R, int P, bool kBegin>
  DR_INLINE void line(const Elem* w, std::int64_t panel_size, const RowsOf<R>& x, int i,
                      Words (*d)[P]) {
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p) {
      const Words wv = pin(load_words(w + p * panel_size + 16 * i));
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        if constexpr (kBegin)
          d[r][p] = products(word(x, r, i), wv);
        else
          add_products(d[r][p], word(x, r, i), wv);
      }
    }
  }
  template <int R, int P, bool kBegin>
  DR_INLINE void two_lines(const Elem*& w, std::int64_t panel_size, RowsOf<R>& x, Words (*d)[P]) {
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p)
#pragma GCC unroll 2
      for (int i = 0; i < 2; ++i) prefetch(w + p * panel_size + 16 * i + prefetch_bytes(R) / 4);
    line<R, P, kBegin>(w, panel_size, x, 0, d);
    line<R, P, false>(w, panel_size, x, 1, d);
    w += 32, advance(x, 2);
  }

  template <int R, int P>
  DR_INLINE void sum(const LinearArgs& a, const Elem* w, RowsOf<R> x, V (*acc)[P]) {
    const std::int64_t panel_size = a.steps * 16;
    const int lines = static_cast<int>(a.group / 2);
    for (std::int64_t left = a.steps; left > 0; left -= lines + 1) {
      Words d[R][P];
      two_lines<R, P, true>(w, panel_size, x, d);
      for (int l = 2; l < lines; l += 2) two_lines<R, P, false>(w, panel_size, x, d);
#pragma GCC unroll 8
      for (int p = 0; p < P; ++p) {
        const V scale = load(reinterpret_cast<const float*>(w + p * panel_size));
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r)
          acc[r][p] = fma(to_floats(d[r][p]) * element(x, r, 0), scale, acc[r][p]);
      }
      // In memory between two groups: within one the registers are full of whole numbers.
      if constexpr (R > 2) asm("" : "+m"(*reinterpret_cast<V(*)[R][P]>(acc)));
      w += 16, advance(x, 1);
    }
  }
};
