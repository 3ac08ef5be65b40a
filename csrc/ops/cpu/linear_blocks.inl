// The order in which a linear kernel walks over rows and panels.

// Panels are taken in groups that stay in the second-level cache over a block of rows, rows in
// blocks whose activations stay there over all panels.
constexpr std::int64_t kRowBlockBytes = 512 * 1024, kGroupBytes = 384 * 1024;

// Calls f(first row, rows, panel, end) so that every row meets every panel of `a` once. Rows up to
// tile_rows read a panel once only, so all panels are one group.
template <class F>
DR_INLINE void for_blocks(const LinearArgs& a, std::int64_t tile_rows, std::int64_t panel_bytes,
                          F&& f) {
  std::int64_t block = kRowBlockBytes / a.x_stride;
  if (block < 4 * tile_rows) block = 4 * tile_rows;
  std::int64_t fit = kGroupBytes / panel_bytes / 4 * 4;
  if (fit < 4) fit = 4;
  for (std::int64_t first = 0; first < a.rows; first += block) {
    const std::int64_t rows = a.rows - first < block ? a.rows - first : block;
    const std::int64_t group = rows <= tile_rows ? a.panel_end - a.panel_begin : fit;
    for (std::int64_t panel = a.panel_begin; panel < a.panel_end; panel += group)
      f(first, rows, panel, panel + group < a.panel_end ? panel + group : a.panel_end);
  }
}
