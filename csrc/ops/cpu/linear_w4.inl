// out = x W^T where a panel is lines of 16 words, one word an output row: for every group of k one
// line of scales and zeros, then lines of eight consecutive elements as nibbles.
//
// A weight is unpacked as fma(q, s, -(z * s)). A scale has at most 20 significant bits, so q * s
// and z * s are exact and the fused (or plain) sum is rounded once: to the very (q - z) * s that
// dequantising to f32 would give. The sum over k runs as in the f32 kernel. Hence the result equals
// that of the f32 kernel on the dequantised weights bit for bit. (AMX has a kernel of its own,
// linear_tiles_w4.inl, and its own order.)

struct W4Format {
  using Elem = std::uint32_t;
  static constexpr int kRows = kTileRows, kFew = kFewRows, kFewWide = kFewPanels;
  static constexpr int kK = 1;  // a step is one line
  static constexpr int kGemv = kGemvPanelsW4;

  // Element J of each of the eight that a line holds of every row.
  template <int J, int R, int P>
  DR_INLINE void mac(const Words* w, const V* scale, const V* offset, const RowsOf<R>& x,
                     V (*acc)[P]) {
    V v[P];
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p) v[p] = fma(nibble<J>(w[p]), scale[p], offset[p]);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const V xv = element(x, r, J);
#pragma GCC unroll 8
      for (int p = 0; p < P; ++p) acc[r][p] = fma(v[p], xv, acc[r][p]);
    }
  }

  template <int R, int P>
  DR_INLINE void line(const Words* w, const V* scale, const V* offset, const RowsOf<R>& x,
                      V (*acc)[P]) {
    mac<0, R, P>(w, scale, offset, x, acc);
    mac<1, R, P>(w, scale, offset, x, acc);
    mac<2, R, P>(w, scale, offset, x, acc);
    mac<3, R, P>(w, scale, offset, x, acc);
    mac<4, R, P>(w, scale, offset, x, acc);
    mac<5, R, P>(w, scale, offset, x, acc);
    mac<6, R, P>(w, scale, offset, x, acc);
    mac<7, R, P>(w, scale, offset, x, acc);
  }

  template <int R, int P>
  DR_INLINE void sum(const LinearArgs& a, const Elem* w, RowsOf<R> x, V (*acc)[P]) {
    const std::int64_t panel_size = a.steps * 16, lines = a.group / 8;
    for (std::int64_t left = a.steps; left > 0; left -= lines + 1) {
      V scale[P], offset[P];
#pragma GCC unroll 8
      for (int p = 0; p < P; ++p) {
        const Words head = load_words(w + p * panel_size);
        scale[p] = above_nibble(head);
        offset[p] = set1(0.0f) - nibble<0>(head) * scale[p];
      }
      w += 16;
      for (std::int64_t i = 0; i < lines; ++i, w += 16, advance(x, 8)) {
        Words words[P];
#pragma GCC unroll 8
        for (int p = 0; p < P; ++p) {
          words[p] = load_words(w + p * panel_size);
          prefetch(w + p * panel_size + kPrefetchBytes / sizeof(Elem));
        }
        line<R, P>(words, scale, offset, x, acc);
      }
    }
  }
};
