// The same for w4. The integers q - z are exact in bf16, so the tiles multiply them, and a scale
// meets one sum of products a group instead of every weight. The order of an output element:
//
//   sum = 0; for every group, in order: d = the tiles' sum over its steps of 32 elements, from
//   zero, in the order of tiles.h; sum = fma(s, d, sum) in f32
//
// Pair p of a step is its elements 8 (p / 4) + p % 4 and that + 4: four apart, they lie in the two
// halves of a word, and one shift puts both in place. So a step of a panel is unpacked by some 45
// vector instructions and 16 stores, by count about 25 cycles, beside the 16 that the tiles take
// for 16 rows of x. One row stays bound by reading the weights (256 bytes a step), more rows by
// what the tiles and the sums of the groups take.
//
// The unit that includes this unpacks a step, the one part that needs instructions of its own:
//   void unpack_step(const std::uint32_t* heads, const std::uint32_t* words, std::uint16_t* tile)
// `words` are four lines as linear_weight.h says, `tile` is what TDPBF16PS reads.

constexpr int kStepLines = 4;

// x rounded to bf16, every eight elements in the order of the pairs.
static void bf16_row_w4(const float* x, const RowShape& row, void* out) {
  bf16_row(x, row, out);
  auto* to = static_cast<std::uint16_t*>(out);
  for (std::int64_t i = 0; i < row.padded; i += 8) {
    std::uint16_t in_order[8];
    __builtin_memcpy(in_order, to + i, 16);
    for (int j = 0; j < 8; ++j) to[i + j] = in_order[j / 2 + j % 2 * 4];
  }
}

// A place in the panels from one on, in words of the first.
struct W4Place {
  const std::uint32_t *heads, *end;  // of a group; of the panel
  std::int64_t panel_size, lines;    // lines of words in a group
  std::int64_t line = 0;
};

// The step at a place, a tile a panel, and the place of the next.
template <int P>
DR_INLINE void unpack_panels(W4Place& at, std::uint16_t (*tiles)[kTileBytes / 2]) {
  if (at.heads == at.end) return;
  for (int p = 0; p < P; ++p) {
    const std::uint32_t* heads = at.heads + p * at.panel_size;
    const std::uint32_t* words = heads + (1 + at.line) * 16;
    for (int i = 0; i < kStepLines; ++i) prefetch(words + i * 16 + kPrefetchBytes / 4);
    unpack_step(heads, words, tiles[p]);
  }
  at.line += kStepLines;
  if (at.line < at.lines) return;
  at.line = 0;
  at.heads += (at.lines + 1) * 16;
}

using TileSums = float[16 * 16];

struct W4Tiles {
  // The sums of a group, scaled, to those of the groups before.
  template <class Tiles, int R, int P>
  DR_INLINE void add_group(Tiles& tiles, const std::uint32_t* heads, std::int64_t panel_size,
                           TileRows rows, TileSums (*acc)[P]) {
    alignas(64) TileSums sums[R][P];
    unrolled<R>([&](auto r) {
      unrolled<P>([&](auto p) { tiles.template store<r * kSums<R> + p>(sums[r][p], 64); });
    });
    for (int p = 0; p < P; ++p) {
      const V scale = above_nibble(load_words(heads + p * panel_size));
      for (int r = 0; r < R; ++r)
        for (int i = 0; i < rows.of(r) * 16; i += 16)
          store(acc[r][p] + i, fma(scale, load(sums[r][p] + i), load(acc[r][p] + i)));
    }
  }

  // R row tiles by P panels. Steps are unpacked two ahead: the vectors have work while the tiles
  // multiply, and no tile is loaded from stores that are still under way to the cache.
  template <class Tiles, int R, int P>
  static void block(Tiles& tiles, const LinearArgs& a, TileRows rows, std::int64_t panel) {
    alignas(64) std::uint16_t weights[2][P][kTileBytes / 2];
    alignas(64) TileSums acc[R][P];
    for (int r = 0; r < R; ++r)
      for (int p = 0; p < P; ++p)
        __builtin_memset(acc[r][p], 0, static_cast<std::size_t>(rows.of(r)) * 64);
    const std::int64_t panel_size = a.steps * 16, lines = a.group / 8;
    const auto* x = static_cast<const unsigned char*>(a.x) + rows.first * a.x_stride;
    const auto* heads = static_cast<const std::uint32_t*>(a.w) + panel * panel_size;
    const auto* end = heads + panel_size;
    W4Place ahead{heads, end, panel_size, lines};
    unpack_panels<P>(ahead, weights[0]);
    unpack_panels<P>(ahead, weights[1]);
    int turn = 0;
    for (; heads < end; heads += (lines + 1) * 16) {
      zero_sums<Tiles, R, P>(tiles);
      for (std::int64_t line = 0; line < lines; line += kStepLines, x += 64, turn ^= 1) {
        const auto* w = reinterpret_cast<const unsigned char*>(weights[turn]);
        add_step<Tiles, R, P>(tiles, x, a.x_stride, w, kTileBytes);
        unpack_panels<P>(ahead, weights[turn]);
      }
      add_group<Tiles, R, P>(tiles, heads, panel_size, rows, acc);
    }
    for (int r = 0; r < R; ++r)
      for (int p = 0; p < P; ++p)
        store_rows(a, rows.first + 16 * r, rows.of(r), panel + p, acc[r][p]);
  }
};
