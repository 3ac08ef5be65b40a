// out = x W^T by tiles of AMX, on the same panels of 16 output rows: 16 pairs of k of a bf16 panel
// are a tile just as they lie. An output element is one element of one tile, summed over k in steps
// of 32 in order: neither the other rows nor the tile's place change it. One row takes the same way
// (it is bound by reading the weights), so that it agrees with many.
//
// Tiles 0-3 hold sums, 4-5 rows of x, 6-7 weights: two row tiles by two panels or one by four, the
// four chains that a dot of 52 cycles issued every 16 needs.
constexpr int kTilePairs = 16, kTileElements = 32, kTileBytes = 1024, kTwoTiles = 32;
constexpr double kTileMaddsPerNs = 500;  // a core near 2 GHz does 512 in a cycle at best
template <int R>
constexpr int kSums = 4 / R;  // of one row tile, of R

template <int N, class F>
DR_INLINE void unrolled(F&& f) {
  [&]<int... I>(std::integer_sequence<int, I...>) {
    (f(std::integral_constant<int, I>{}), ...);
  }(std::make_integer_sequence<int, N>{});
}

// x rounded to bf16, padded with zeros to `row.padded` elements, a multiple of 32.
static void bf16_row(const float* x, const RowShape& row, void* out) {
  auto* to = static_cast<std::uint16_t*>(out);
  for (std::int64_t i = 0; i < row.padded; i += 16) {
    const std::int64_t left = row.k - i;
    const V v = left >= 16 ? load(x + i)
                : left > 0 ? load(x + i, static_cast<int>(left))
                           : set1(0.0f);
    float rounded[16];
    store(rounded, round_bf16(v));
    for (int j = 0; j < 16; ++j) {
      std::uint32_t bits;
      __builtin_memcpy(&bits, rounded + j, 4);
      to[i + j] = static_cast<std::uint16_t>(bits >> 16);
    }
  }
}

struct TileRows {
  std::int64_t first;
  int count;  // 1 .. 32
  int of(int tile) const { return tile ? count - 16 : count < 16 ? count : 16; }
};

static TileConfig config_for(TileRows rows) {
  TileConfig config;
  const int tiles = rows.count > 16 ? 2 : 1, sums = 4 / tiles;
  for (int i = 0; i < 4; ++i) config.set(i, rows.of(i / sums), 64);
  for (int r = 0; r < tiles; ++r) config.set(4 + r, rows.of(r), 64);
  for (int w = 6; w < 8; ++w) config.set(w, kTilePairs, 64);
  return config;
}

// Tile r * kSums<R> + p holds the sums of row tile r and panel p.
template <class Tiles, int R, int P>
DR_INLINE void zero_sums(Tiles& tiles) {
  unrolled<R>(
      [&](auto r) { unrolled<P>([&](auto p) { tiles.template zero<r * kSums<R> + p>(); }); });
}

// Adds 32 elements of k: row tiles of x 16 * x_stride apart, panels of weights w_stride apart.
template <class Tiles, int R, int P>
DR_INLINE void add_step(Tiles& tiles, const unsigned char* x, std::int64_t x_stride,
                        const unsigned char* w, std::int64_t w_stride) {
  unrolled<R>([=, &tiles](auto r) { tiles.template load<4 + r>(x + 16 * r * x_stride, x_stride); });
  unrolled<P>([=, &tiles](auto p) {
    tiles.template load<6 + p % 2>(w + p * w_stride, 64);
    unrolled<R>([&](auto r) { tiles.template dot<r * kSums<R> + p, 4 + r, 6 + p % 2>(); });
  });
}

// `rows` rows of 16 sums to the output rows from `row` on.
static void store_rows(const LinearArgs& a, std::int64_t row, int rows, std::int64_t panel,
                       const float* sums) {
  float* out = a.out + row * a.n + panel * 16;
  const std::int64_t left = a.n - panel * 16;
  const int n = left < 16 ? static_cast<int>(left) : 16;
  const V bias = a.bias ? load_some(a.bias + panel * 16, n) : set1(0.0f);
  for (int r = 0; r < rows; ++r)
    store_some(out + r * a.n, a.bias ? load(sums + r * 16) + bias : load(sums + r * 16), n);
}

struct Bf16Tiles {
  // The hardware prefetcher stops at every page of a panel, which is four tiles.
  template <int P>
  DR_INLINE void prefetch_tiles(const unsigned char* w, std::int64_t stride) {
    for (int p = 0; p < P; ++p)
      for (int line = 0; line < kTileBytes; line += 64) prefetch(w + p * stride + line);
  }

  template <class Tiles, int T>
  DR_INLINE void store_sums(Tiles& tiles, const LinearArgs& a, std::int64_t row, int rows,
                            std::int64_t panel) {
    if (a.n - panel * 16 >= 16 && !a.bias)
      return tiles.template store<T>(a.out + row * a.n + panel * 16, a.n * 4);
    alignas(64) float sums[16 * 16];
    tiles.template store<T>(sums, 64);
    store_rows(a, row, rows, panel, sums);
  }

  // R row tiles by P panels.
  template <class Tiles, int R, int P>
  static void block(Tiles& tiles, const LinearArgs& a, TileRows rows, std::int64_t panel) {
    const std::int64_t panel_bytes = a.steps * 64, whole = a.steps / kTilePairs;
    const auto* x = static_cast<const unsigned char*>(a.x) + rows.first * a.x_stride;
    const auto* w = static_cast<const unsigned char*>(a.w) + panel * panel_bytes;
    zero_sums<Tiles, R, P>(tiles);
    for (std::int64_t s = 0; s < whole; ++s, x += 64, w += kTileBytes) {
      if (R == 1) prefetch_tiles<P>(w + 2 * kTileBytes, panel_bytes);
      add_step<Tiles, R, P>(tiles, x, a.x_stride, w, panel_bytes);
    }
    if (const auto left = static_cast<std::size_t>(a.steps % kTilePairs) * 64; left > 0) {
      alignas(64) unsigned char last[P][kTileBytes] = {};  // nothing is read beyond the weights
      for (int p = 0; p < P; ++p) __builtin_memcpy(last[p], w + p * panel_bytes, left);
      add_step<Tiles, R, P>(tiles, x, a.x_stride, last[0], kTileBytes);
    }
    unrolled<R>([&](auto r) {
      unrolled<P>([&](auto p) {
        store_sums<Tiles, r * kSums<R> + p>(tiles, a, rows.first + 16 * r, rows.of(r), panel + p);
      });
    });
  }
};

template <class F, class Tiles>
static void tile_rows(const LinearArgs& a, TileRows rows, std::int64_t panel, std::int64_t end) {
  Tiles tiles(config_for(rows));
  if (rows.count > 16) {
    for (; panel + 2 <= end; panel += 2) F::template block<Tiles, 2, 2>(tiles, a, rows, panel);
    if (panel < end) F::template block<Tiles, 2, 1>(tiles, a, rows, panel);
    return;
  }
  for (; panel + 4 <= end; panel += 4) F::template block<Tiles, 1, 4>(tiles, a, rows, panel);
  for (; panel < end; ++panel) F::template block<Tiles, 1, 1>(tiles, a, rows, panel);
}

template <class F, class Tiles>
static void linear_tiles(const LinearArgs& a) {
  for_blocks(a, kTwoTiles, a.steps * 64, [&](auto first, auto rows, auto panel, auto end) {
    for (std::int64_t r = 0; r < rows; r += kTwoTiles) {
      const auto count = static_cast<int>(rows - r < kTwoTiles ? rows - r : kTwoTiles);
      tile_rows<F, Tiles>(a, {first + r, count}, panel, end);
    }
  });
}
