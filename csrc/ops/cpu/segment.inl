// Attention inside a segment. Keys and values of a (segment, head) are first packed: keys into
// blocks [dim][16], values into rows padded to whole vectors. A token's row of qkv is some pages
// long, so reading them in place would cost a page walk a key.

DR_INLINE int padded(int dim) { return (dim + 15) / 16 * 16; }

static void pack_segment(const SegmentUnit& a, float* keys, float* values) {
  const int wide = padded(a.dim);
  for (std::int64_t j = 0; j < a.keys; ++j, values += wide) {
    const float* k = a.k + j * a.stride;
    float* block = keys + j / 16 * 16 * a.dim + j % 16;
    for (int d = 0; d < a.dim; ++d) block[d * 16] = k[d];
    for_lanes(a.dim, [&](std::int64_t d, int n) {
      store(values + d, load_some(a.v + j * a.stride + d, n));
    });
  }
  const int past = static_cast<int>(a.keys % 16);
  if (past == 0) return;
  float* block = keys + a.keys / 16 * 16 * a.dim;
  for (int d = 0; d < a.dim; ++d)
    for (int j = past; j < 16; ++j) block[d * 16 + j] = 0.0f;
}

// rows * padded(dim) of a unit, whatever the dim: see unit_rows.
constexpr int kUnitFloats = 4096;

static void segment_attention(const SegmentUnit& a, const float* keys, const float* values) {
  const int wide = padded(a.dim);
  RowState rows[kUnitRows];
  int valid[kUnitRows];
  alignas(64) float q[kUnitFloats], acc[kUnitFloats];
  for (int i = 0; i < a.count; ++i) {
    rows[i].q = q + i * wide;
    rows[i].acc = acc + i * wide;
    start_row(rows[i], wide);
    for_lanes(a.dim, [&](std::int64_t d, int n) {
      store(q + i * wide + d, load_some(a.q + (a.first + i) * a.stride + d, n));
    });
  }
  const int step_size = step_keys(wide);
  KeyStep<float> step;
  step.v_stride = step.wide = wide;
  step.dim = a.dim;
  step.scale = a.scale * kLog2E;
  for (std::int64_t j = 0; j < a.keys; j += step_size) {
    for (int i = 0; i < a.count; ++i) valid[i] = at_most(a.keys - j, step_size);
    for (int b = 0; b < valid[0]; b += 16)
      step.k[b / 16] = keys + (j + b) * a.dim, step.v[b / 16] = values + (j + b) * wide;
    step_all_rows(rows, valid, a.count, step);
  }
  for (int i = 0; i < a.count; ++i) {
    const V inverse = set1(1.0f / sum(rows[i].sum));
    for_lanes(a.dim, [&](std::int64_t d, int n) {
      store_some(a.out + (a.first + i) * a.out_stride + d, load(rows[i].acc + d) * inverse, n);
    });
  }
}
