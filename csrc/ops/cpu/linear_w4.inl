// out = x W^T where a panel is lines of 16 words, one word an output row: for every group of k one
// line of scales and zeros, then lines of eight consecutive elements as nibbles.
//
// A scale meets one sum of products a group instead of every weight. The order of an output
// element, all in f32 (`fma` rounds twice in the portable table):
//
//   sum = 0; for every group, in order: d = z * -X, X being the sum of the group's x;
//   for its elements, in order: d = fma(q, x, d); then sum = fma(s, d, sum)
//
// X is summed in 16 lanes (lane i takes elements i, i + 16, ... in order), then by halves. That d
// starts at the zeros' share saves an instruction a weight. It costs bits only where x has a mean,
// which q - z would cancel at once, and no more than the short chains win back: a weight's product
// passes through roundings of its own group and of the groups after it, not of all k.
//
// To unpack a weight is to mask its nibble and to convert it where it stands: q times a power of
// two, which x was divided by beforehand. Both are exact (but for x below 2^-102), so the products
// are those above. AMX has a kernel of its own, linear_tiles_w4.inl, and its own order.

// A row of x mirrors a panel: for every group a line of kW4Head elements, the first being -X, then
// its elements divided as said.
constexpr int kW4Head = 8;

static void w4_values(const float* x, const RowShape& row, void* out) {
  static constexpr float kPlaces[16] = {1,        0x1p-4f,  0x1p-8f,  0x1p-12f, 0x1p-16f, 0x1p-20f,
                                        0x1p-24f, 1,        1,        0x1p-4f,  0x1p-8f,  0x1p-12f,
                                        0x1p-16f, 0x1p-20f, 0x1p-24f, 1};
  auto* to = static_cast<float*>(out);
  const V places = load(kPlaces);
  for (const float* end = x + row.k; x < end; x += row.group, to += row.group) {
    float* head = to;
    to += kW4Head;
    V all = load(x);
    store(to, all * places);
    for (std::int64_t i = 16; i < row.group; i += 16) {
      const V v = load(x + i);
      all = all + v;
      store(to + i, v * places);
    }
    head[0] = -sum(all);
  }
}

struct W4Format {
  using Elem = std::uint32_t;
  static constexpr int kRows = kTileRows;
  static constexpr int kK = 1;  // a step is one line
  static constexpr int kGemv = kGemvPanelsW4, kFew = kFewRowsW4, kWide = kFewPanelsW4;
  DR_INLINE bool poor(std::int64_t) { return false; }

  // Element J of each of the eight that a line holds of every row. The words are read anew for
  // every element, as operands from the first-level cache: in registers for the whole line they
  // drive out the sums (5 to 20 % of the time on Zen).
  template <int J, int R, int P>
  DR_INLINE void mac(const Elem* w, std::int64_t panel_size, const RowsOf<R>& x, V (*d)[P]) {
    asm volatile("" ::: "memory");
    V v[P];
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p) v[p] = placed_nibble<J>(load_words(w + p * panel_size));
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const V xv = element(x, r, J);
#pragma GCC unroll 8
      for (int p = 0; p < P; ++p) d[r][p] = fma(v[p], xv, d[r][p]);
    }
  }

  template <int R, int P>
  DR_INLINE void line(const Elem* w, std::int64_t panel_size, const RowsOf<R>& x, V (*d)[P]) {
    mac<0, R, P>(w, panel_size, x, d);
    mac<1, R, P>(w, panel_size, x, d);
    mac<2, R, P>(w, panel_size, x, d);
    mac<3, R, P>(w, panel_size, x, d);
    mac<4, R, P>(w, panel_size, x, d);
    mac<5, R, P>(w, panel_size, x, d);
    mac<6, R, P>(w, panel_size, x, d);
    mac<7, R, P>(w, panel_size, x, d);
  }

  template <int R, int P>
  DR_INLINE void sum(const LinearArgs& a, const Elem* w, RowsOf<R> x, V (*acc)[P]) {
    const std::int64_t panel_size = a.steps * 16, lines = a.group / 8;
    for (std::int64_t left = a.steps; left > 0; left -= lines + 1) {
      const Elem* heads = w;
      V d[R][P];
#pragma GCC unroll 8
      for (int p = 0; p < P; ++p) {
        const V zero = placed_nibble<0>(load_words(w + p * panel_size));
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) d[r][p] = zero * element(x, r, 0);
      }
      w += 16, advance(x, kW4Head);
      for (std::int64_t i = 0; i < lines; ++i, w += 16, advance(x, 8)) {
#pragma GCC unroll 8
        for (int p = 0; p < P; ++p) prefetch(w + p * panel_size + kPrefetchBytesW4 / sizeof(Elem));
        line<R, P>(w, panel_size, x, d);
      }
#pragma GCC unroll 8
      for (int p = 0; p < P; ++p) {
        const V scale = above_nibble(load_words(heads + p * panel_size));
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) acc[r][p] = fma(scale, d[r][p], acc[r][p]);
      }
    }
  }
};
