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

// The largest size in `count` elements; infinity or NaN where there is one.
DR_INLINE float i16_largest(const float* x, int count) {
  V most = set1(0.0f);
  for (; count > 0; x += 16, count -= 16)
    most = larger(most, load_some(x, count < 16 ? count : 16));
  return largest(most);
}

// Up to 16 groups of x, `count` elements, in whole numbers, each group with its scale behind it. A
// scale is NaN where the group has what is no finite number, and so every result of the row; a
// group of nothing but zeros and what is nearly zero becomes zeros.
static void i16_groups(const float* x, int count, int group, std::int16_t* to) {
  const V limit = set1(i16_most(group)), tiny = set1(1e-30f);
  float most[16] = {}, up[16], scale[16];
  for (int g = 0; g * group < count; ++g) {
    const int left = count - g * group;
    most[g] = i16_largest(x + g * group, left < group ? left : group);
  }
  const V m = load(most);
  store(up, if_less(m, tiny, set1(0.0f), limit / m));
  store(scale, m / limit + (m - m));
  for (int g = 0; g * group < count; ++g, to += 2) {
    for (int end = (g + 1) * group, i = g * group; i < end; i += 16, to += 16) {
      const int left = count - i;
      const V v = left < 16 ? load(x + i, left < 0 ? 0 : left) : load(x + i);
      store_i16(to, v * set1(up[g]));
    }
    __builtin_memcpy(to, scale + g, sizeof(float));
  }
}

static void i16_values(const float* x, const RowShape& row, void* out) {
  auto* to = static_cast<std::int16_t*>(out);
  const int group = static_cast<int>(row.group), most = 16 * group;
  for (std::int64_t i = 0; i < row.k; i += most, to += 16 * (group + 2))
    i16_groups(x + i, static_cast<int>(row.k - i < most ? row.k - i : most), group, to);
}

struct I16Format {
  using Elem = std::uint32_t;
  static constexpr int kRows = kTileRowsI16;
  static constexpr int kK = 1;  // a step is one line
  static constexpr int kGemv = kGemvPanelsI16, kFew = kFewRowsI16, kWide = kFewPanelsI16;
  DR_INLINE bool poor(std::int64_t) { return false; }

  template <int R, int P>
  DR_INLINE void line(const Elem* w, std::int64_t panel_size, const RowsOf<R>& x, int i,
                      Words (*d)[P]) {
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p) {
      const Words wv = pin(load_words(w + p * panel_size));
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) add_products(d[r][p], word(x, r, i), wv);
    }
  }

  template <int R, int P>
  DR_INLINE void sum(const LinearArgs& a, const Elem* w, RowsOf<R> x, V (*acc)[P]) {
    const std::int64_t panel_size = a.steps * 16;
    const int lines = static_cast<int>(a.group / 2);
    // In memory between two groups: within one the registers are full of whole numbers.
    float sums[R][P][16] = {};
    for (std::int64_t left = a.steps; left > 0; left -= lines + 1) {
      Words d[R][P];
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
        for (int p = 0; p < P; ++p) d[r][p] = no_words();
      for (int l = 0; l < lines; l += 2, w += 32, advance(x, 2)) {
#pragma GCC unroll 8
        for (int p = 0; p < P; ++p)
#pragma GCC unroll 2
          for (int i = 0; i < 2; ++i) prefetch(w + p * panel_size + 16 * i + prefetch_bytes(R) / 4);
#pragma GCC unroll 2
        for (int i = 0; i < 2; ++i) line<R, P>(w + 16 * i, panel_size, x, i, d);
      }
#pragma GCC unroll 8
      for (int p = 0; p < P; ++p) {
        const V scale = load(reinterpret_cast<const float*>(w + p * panel_size));
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r)
          store(sums[r][p], fma(to_floats(d[r][p]) * element(x, r, 0), scale, load(sums[r][p])));
      }
      w += 16, advance(x, 1);
    }
    for (int r = 0; r < R; ++r)
      for (int p = 0; p < P; ++p) acc[r][p] = load(sums[r][p]);
  }
};
