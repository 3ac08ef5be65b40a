// out = x W^T on panels of 16 output rows. An output element is one lane of one accumulator, summed
// over k in order: the tile it falls into, and so M and the thread, cannot change it.
//
// bf16 weights are widened and multiplied by FMA. VDPBF16PS would do two products at once, but
// issues once in two cycles where FMA issues twice in one (measured on Sapphire/Emerald Rapids):
// one row costs the same either way, and from a few rows on, when a widened weight serves all of
// them, FMA wins.

constexpr double kMaddsPerNs = 50;

// Bytes ahead that a panel is asked for. Measured on Zen beyond the caches: one row, which reads
// several panels at once, wants less than a tile of rows, which reads one.
constexpr int prefetch_bytes(int rows) { return rows > 1 ? 1024 : 256; }

// x rounded to bf16, kept as f32, padded with zeros.
static void bf16_values(const float* x, const RowShape& row, void* out) {
  auto* to = static_cast<float*>(out);
  for_lanes(row.k,
            [&](std::int64_t i, int n) { store_some(to + i, round_bf16(load_some(x + i, n)), n); });
  for (std::int64_t i = row.k; i < row.padded; ++i) to[i] = 0.0f;
}

// R rows of x: row r at base[r / 4] + r % 4 * stride, so that five registers address twelve rows.
// Left to itself the compiler keeps an offset for each row, more than there are registers (12-15 %
// of the time from eight rows on).
template <int R>
struct RowsOf {
  static constexpr int kBases = (R + 3) / 4;
  const char* base[kBases];
  std::int64_t stride, stride3;  // bytes
};

template <int R>
DR_INLINE RowsOf<R> rows_at(const void* x, std::int64_t stride) {
  RowsOf<R> rows;
  for (int b = 0; b < rows.kBases; ++b) rows.base[b] = static_cast<const char*>(x) + 4 * b * stride;
  rows.stride = stride;
  rows.stride3 = 3 * stride;
  asm("" : "+r"(rows.stride), "+r"(rows.stride3));
  return rows;
}
template <int R>
DR_INLINE V element(const RowsOf<R>& x, int r, int i) {
  const char* row = x.base[r / 4] + (r % 4 == 3 ? x.stride3 : r % 4 * x.stride);
  return set1(reinterpret_cast<const float*>(row)[i]);
}
// The word at element i of row r, in all 16 lanes.
template <int R>
DR_INLINE Words word(const RowsOf<R>& x, int r, int i) {
  const char* row = x.base[r / 4] + (r % 4 == 3 ? x.stride3 : r % 4 * x.stride);
  return all_words(row + i * static_cast<int>(sizeof(float)));
}
template <int R>
DR_INLINE void advance(RowsOf<R>& x, int elements) {
#pragma GCC unroll 4
  for (int b = 0; b < x.kBases; ++b) {
    x.base[b] += elements * static_cast<int>(sizeof(float));
    asm("" : "+r"(x.base[b]));
  }
}

// The sum over k of a format whose panel is a plain run of steps.
template <class F, int R, int P>
DR_INLINE void sum_steps(const LinearArgs& a, const typename F::Elem* w, RowsOf<R> x, V (*acc)[P]) {
  using Elem = typename F::Elem;
  constexpr int kStep = 16 * F::kK;
  const std::int64_t panel_size = a.steps * kStep;
  for (std::int64_t s = 0; s < a.steps; ++s, w += kStep, advance(x, F::kK)) {
    typename F::W wv[P];
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p) {
      wv[p] = R > 1 && R <= kFewRows ? F::pinned(w + p * panel_size) : F::w(w + p * panel_size);
      prefetch(w + p * panel_size + kPrefetchBytes / sizeof(Elem));
    }
    F::template mac<R, P>(wv, x, acc);
  }
}

struct F32Format {
  using Elem = float;
  static constexpr int kRows = kTileRows;
  static constexpr int kK = 1;  // elements of k in a step
  static constexpr int kGemv = kGemvPanels, kFew = kFewRows, kWide = kFewPanels;
  struct W {
    V v;
  };
  DR_INLINE bool poor(std::int64_t) { return false; }
  DR_INLINE W w(const Elem* p) { return {load(p)}; }
  DR_INLINE W pinned(const Elem* p) { return {pin(load(p))}; }
  template <int R, int P>
  DR_INLINE void mac(const W* w, const RowsOf<R>& x, V (*acc)[P]) {
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const V xv = element(x, r, 0);
#pragma GCC unroll 8
      for (int p = 0; p < P; ++p) acc[r][p] = fma(w[p].v, xv, acc[r][p]);
    }
  }
  template <int R, int P>
  DR_INLINE void sum(const LinearArgs& a, const Elem* w, const RowsOf<R>& x, V (*acc)[P]) {
    sum_steps<F32Format, R, P>(a, w, x, acc);
  }
};

struct Bf16Format {
  using Elem = std::uint16_t;
  static constexpr int kRows = kTileRowsBf16;
  static constexpr int kK = 2;
  static constexpr int kGemv = kGemvPanelsBf16, kFew = kFewRowsBf16, kWide = kFewPanelsBf16;
  using W = Pairs;
  // Heights that a tile should not be left with: too few sums to keep FMA busy.
  DR_INLINE bool poor(std::int64_t rows) { return kPairsInTurn && (rows == 1 || rows == 4); }
  DR_INLINE W w(const Elem* p) { return load_pairs(p); }
  DR_INLINE W pinned(const Elem* p) { return load_pairs(p); }
  template <int R, int P>
  DR_INLINE void mac(const W* w, const RowsOf<R>& x, V (*acc)[P]) {
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const V xv = element(x, r, 0);
#pragma GCC unroll 8
      for (int p = 0; p < P; ++p) acc[r][p] = fma(w[p].even, xv, acc[r][p]);
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const V xv = element(x, r, 1);
#pragma GCC unroll 8
      for (int p = 0; p < P; ++p) acc[r][p] = fma(w[p].odd, xv, acc[r][p]);
    }
  }
  template <int R, int P>
  DR_INLINE void sum(const LinearArgs& a, const Elem* w, const RowsOf<R>& x, V (*acc)[P]) {
    if constexpr (kPairsInTurn && R == 1)
      sum_by_panel<P>(a, w, x, acc);
    else if constexpr (kPairsInTurn)
      sum_in_turn<R, P>(a, w, x, acc);
    else
      sum_steps<Bf16Format, R, P>(a, w, x, acc);
  }
  // One row: the widened vectors of one panel at a time, for the same reason as below.
  template <int P>
  DR_INLINE void sum_by_panel(const LinearArgs& a, const Elem* w, RowsOf<1> x, V (*acc)[P]) {
    const std::int64_t panel_size = a.steps * 32;
    for (std::int64_t s = 0; s < a.steps; ++s, w += 32, advance(x, kK)) {
      const V even = element(x, 0, 0), odd = element(x, 0, 1);
#pragma GCC unroll 8
      for (int p = 0; p < P; ++p) {
        const Pairs pairs = load_pairs(w + p * panel_size);
        add_product(acc[0][p], pairs.even, even);
        add_product(acc[0][p], pairs.odd, odd);
        prefetch(w + p * panel_size + kPrefetchBytes / sizeof(Elem));
      }
    }
  }
  // Reads a step twice, for its even and for its odd elements: one widened vector a panel at a time
  // leaves the registers to the sums, of which FMA needs more than its latency to stay busy.
  template <int R, int P>
  DR_INLINE void sum_in_turn(const LinearArgs& a, const Elem* w, RowsOf<R> x, V (*acc)[P]) {
    const std::int64_t panel_size = a.steps * 32;
    for (std::int64_t s = 0; s < a.steps; ++s, w += 32, advance(x, kK)) {
#pragma GCC unroll 2
      for (int half = 0; half < 2; ++half) {
#pragma GCC unroll 8
        for (int p = 0; p < P; ++p) {
          const V wv = half_of_pairs(w + p * panel_size, half);
#pragma GCC unroll 16
          for (int r = 0; r < R; ++r) add_product(acc[r][p], wv, element(x, r, half));
          // Else the elements are kept for the next panel: more than there are registers.
          if (R > 2 && p + 1 < P) advance(x, 0);
        }
        asm("" : "+r"(w));  // else both halves come from one load, which would have to be kept
      }
#pragma GCC unroll 8
      for (int p = 0; p < P; ++p) prefetch(w + p * panel_size + prefetch_bytes(R) / sizeof(Elem));
    }
  }
};

DR_INLINE int lanes_of(std::int64_t left) { return left < 16 ? static_cast<int>(left) : 16; }

template <int R, int P>
DR_INLINE void store_tile(const LinearArgs& a, std::int64_t row, std::int64_t panel, V (*acc)[P]) {
  float* out = a.out + row * a.n + panel * 16;
  const std::int64_t left = a.n - panel * 16;
  if (a.bias) {
    for (int p = 0; p < P; ++p) {
      const V bias = load_some(a.bias + (panel + p) * 16, lanes_of(left - p * 16));
      for (int r = 0; r < R; ++r) acc[r][p] = acc[r][p] + bias;
    }
  }
  if (left >= P * 16) {
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
      for (int p = 0; p < P; ++p) store(out + r * a.n + p * 16, acc[r][p]);
    return;
  }
  for (int r = 0; r < R; ++r)
    for (int p = 0; p < P; ++p)
      store_some(out + r * a.n + p * 16, acc[r][p], lanes_of(left - p * 16));
}

// Rows [row, row + R), panels [panel, panel + P).
template <class F, int R, int P>
static void tile(const LinearArgs& a, std::int64_t row, std::int64_t panel) {
  const auto* w = static_cast<const typename F::Elem*>(a.w) + panel * a.steps * 16 * F::kK;
  const auto x = rows_at<R>(static_cast<const char*>(a.x) + row * a.x_stride, a.x_stride);
  V acc[R][P];
  for (int r = 0; r < R; ++r)
    for (int p = 0; p < P; ++p) acc[r][p] = set1(0.0f);
  F::template sum<R, P>(a, w, x, acc);
  store_tile<R, P>(a, row, panel, acc);
}

// `rows` (1 .. F::kRows) by P panels.
template <class F, int P, int R = F::kRows>
DR_INLINE void tile_of(const LinearArgs& a, int rows, std::int64_t row, std::int64_t panel) {
  if constexpr (R == 1) {
    tile<F, 1, P>(a, row, panel);
  } else {
    if (rows == R) return tile<F, R, P>(a, row, panel);
    tile_of<F, P, R - 1>(a, rows, row, panel);
  }
}

// `rows` by the panels [panel, end), as wide as the registers allow.
template <class F>
static void row_tile(const LinearArgs& a, int rows, std::int64_t row, std::int64_t panel,
                     std::int64_t end) {
  if (rows == 1)
    for (; panel + F::kGemv <= end; panel += F::kGemv) tile<F, 1, F::kGemv>(a, row, panel);
  if (rows <= F::kFew)
    for (; panel + F::kWide <= end; panel += F::kWide)
      tile_of<F, F::kWide, F::kFew>(a, rows, row, panel);
  for (; panel + kTilePanels <= end; panel += kTilePanels)
    tile_of<F, kTilePanels>(a, rows, row, panel);
  for (; panel < end; ++panel) tile_of<F, 1>(a, rows, row, panel);
}

// Rows of the next tile where `left` are left.
template <class F>
DR_INLINE int tile_height(std::int64_t left) {
  if (left <= F::kRows) return static_cast<int>(left);
  return F::poor(left - F::kRows) ? F::kRows - 1 : F::kRows;
}

template <class F>
static void linear(const LinearArgs& a) {
  constexpr std::int64_t kStepBytes = 16 * F::kK * sizeof(typename F::Elem);
  for_blocks(a, F::kRows, a.steps * kStepBytes, [&](auto begin, auto rows, auto panel, auto end) {
    for (std::int64_t r = 0; r < rows;) {
      const int count = tile_height<F>(rows - r);
      row_tile<F>(a, count, begin + r, panel, end);
      r += count;
    }
  });
}
