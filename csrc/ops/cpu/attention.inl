// softmax(q k^T scale) v, online over steps of some blocks of 16 keys: the running maximum, the sum
// and the weighted values are updated step by step in table order, for each (token, head) by
// itself. Rows of a unit share the loads of keys and values; no row's arithmetic depends on
// another. An element is one chain of multiply-adds, over the head's elements (a score) or over the
// step's keys (a value): how many rows, blocks or vectors go side by side changes no bit.

constexpr int kMostStepBlocks = 8, kMostStepKeys = 16 * kMostStepBlocks;

// Long steps spare updates; keys and values of one stay in the first-level cache for all rows.
DR_INLINE int step_keys(int dim) {
  const int fit = 256 / dim;
  return 16 * (fit < 2 ? 2 : fit < kMostStepBlocks ? fit : kMostStepBlocks);
}

struct RowState {
  const float* q;
  float* acc;   // the weighted values so far
  float alpha;  // what the step's update scales the earlier sums by
  float max;    // of the scores so far, which are logarithms to base 2
  V sum;        // lane-wise; folded at the end
};

// Blocks of keys [dim][16] and their values; those past the keys that a row sees are not touched.
template <class T>
struct KeyStep {
  const T *k[kMostStepBlocks], *v[kMostStepBlocks];
  std::int64_t v_stride;
  int dim;   // of queries and keys
  int wide;  // of values, whole vectors
  float scale;
};

DR_INLINE void start_row(RowState& r, int dim) {
  r.max = -__builtin_inff();
  r.sum = set1(0.0f);
  for (int d = 0; d < dim; d += 16) store(r.acc + d, set1(0.0f));
}

// Sums of each of R rows that go side by side.
template <int R>
constexpr int kBeside = R < kAttentionSums ? kAttentionSums / R : 1;

// Scores of R rows and the B blocks from `block` on.
template <int R, int B, class T>
DR_INLINE void block_scores(const RowState* rows, const KeyStep<T>& step, int block,
                            float (*p)[kMostStepKeys]) {
  V s[R][B];
  const float* q[R];
  const T* k[B];
  for (int b = 0; b < B; ++b) k[b] = step.k[block + b];
  for (int r = 0; r < R; ++r) {
    q[r] = rows[r].q;
    for (int b = 0; b < B; ++b) s[r][b] = set1(0.0f);
  }
  for (int d = 0; d < step.dim; ++d) {
#pragma GCC unroll 4
    for (int b = 0; b < B; ++b) {
      const V kd = pin(load(k[b] + d * 16));
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) add_product(s[r][b], kd, set1(q[r][d]));
    }
  }
  const V scale = set1(step.scale);
  for (int r = 0; r < R; ++r)
    for (int b = 0; b < B; ++b) store(p[r] + (block + b) * 16, s[r][b] * scale);
}

// Turns scores of the step's first `blocks` into weights; keys [valid, ...) are not seen (valid >=
// 1).
DR_INLINE void weigh(RowState& r, float* p, int valid, int blocks) {
  const V lowest = set1(-__builtin_inff()), zero = set1(0.0f);
  const int whole = valid / 16, part = valid % 16;
  V most = lowest;
  for (int b = 0; b < whole; ++b) most = max(load(p + b * 16), most);
  if (part) most = max(keep(load(p + whole * 16), part, lowest), most);
  const float top = hmax(most);
  r.alpha = 1.0f;
  if (top > r.max) {
    r.alpha = first(vpow2(set1(r.max - top)));
    r.max = top;
  }
  const V m = set1(r.max);
  V sum = zero;
  for (int b = 0; b < blocks; ++b) {
    V w = zero;
    if (b < whole)
      w = vpow2(load(p + b * 16) - m);
    else if (b == whole && part)
      w = keep(vpow2(load(p + b * 16) - m), part, zero);
    sum = sum + w;
    store(p + b * 16, w);
  }
  r.sum = fma(r.sum, set1(r.alpha), sum);
}

// acc = acc * alpha + sum over j < seen of p[j] v[j], for the D vectors of elements from d on.
template <int R, int D, class T>
DR_INLINE void add_values(const RowState* rows, const KeyStep<T>& step,
                          const float (*p)[kMostStepKeys], int seen, int d) {
  V a[R][D];
  for (int r = 0; r < R; ++r)
    for (int e = 0; e < D; ++e) a[r][e] = set1(0.0f);
  for (int j = 0; j < seen;) {
    const T* v = step.v[j / 16] + d;
    for (const int end = seen < j + 16 ? seen : j + 16; j < end; ++j, v += step.v_stride) {
#pragma GCC unroll 4
      for (int e = 0; e < D; ++e) {
        const V ve = pin(load(v + e * 16));
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) add_product(a[r][e], ve, set1(p[r][j]));
      }
    }
  }
  for (int r = 0; r < R; ++r) {
    const V alpha = set1(rows[r].alpha);
    for (int e = 0; e < D; ++e) {
      float* acc = rows[r].acc + d + e * 16;
      store(acc, fma(load(acc), alpha, a[r][e]));
    }
  }
}

// Elements [d, step.wide), D vectors at a time and then fewer.
template <int R, int D, class T>
DR_INLINE void add_all_values(const RowState* rows, const KeyStep<T>& step,
                              const float (*p)[kMostStepKeys], int seen, int d) {
  for (; d + 16 * D <= step.wide; d += 16 * D) add_values<R, D>(rows, step, p, seen, d);
  if constexpr (D > 1) add_all_values<R, D / 2>(rows, step, p, seen, d);
}

// One step for R rows that see valid[r] >= 1 of its keys.
template <int R, class T>
static void step_rows(RowState* rows, const int* valid, const KeyStep<T>& step) {
  int seen = 0;
  for (int r = 0; r < R; ++r) seen = valid[r] > seen ? valid[r] : seen;
  const int blocks = (seen + 15) / 16;
  alignas(64) float p[R][kMostStepKeys];
  int b = 0;
  for (; b + kBeside<R> <= blocks; b += kBeside<R>) block_scores<R, kBeside<R>>(rows, step, b, p);
  for (; b < blocks; ++b) block_scores<R, 1>(rows, step, b, p);
  for (int r = 0; r < R; ++r) weigh(rows[r], p[r], valid[r], blocks);
  add_all_values<R, kBeside<R>>(rows, step, p, seen, 0);
}

// Rows that see nothing of the step come first (their `valid` is <= 0) and are left out.
template <class T>
static void step_all_rows(RowState* rows, const int* valid, int count, const KeyStep<T>& step) {
  int i = 0;
  while (i < count && valid[i] <= 0) ++i;
  for (; i + kAttentionRows <= count; i += kAttentionRows)
    step_rows<kAttentionRows>(rows + i, valid + i, step);
  for (; i + 4 <= count; i += 4) step_rows<4>(rows + i, valid + i, step);
  for (; i + 2 <= count; i += 2) step_rows<2>(rows + i, valid + i, step);
  if (i < count) step_rows<1>(rows + i, valid + i, step);
}

DR_INLINE int at_most(std::int64_t n, int most) { return n > most ? most : static_cast<int>(n); }

// Steps over the first `tokens` tokens of a table; valid_of(i, step's first token) for each row.
template <class T, class F>
DR_INLINE void walk_table(const AttentionUnit& a, RowState* rows, const std::int32_t* table,
                          std::int64_t tokens, F&& valid_of) {
  const T* k = static_cast<const T*>(a.k);
  const T* v = static_cast<const T*>(a.v);
  int valid[kUnitRows];
  const int keys = step_keys(a.dim);
  KeyStep<T> step;
  step.v_stride = step.dim = step.wide = a.dim;
  step.scale = a.scale * kLog2E;
  for (std::int64_t j = 0; j < tokens; j += keys) {
    for (int i = 0; i < a.count; ++i) valid[i] = at_most(valid_of(i) - j, keys);
    for (int b = 0; b < at_most(tokens - j, keys); b += 16) {
      const std::int64_t at = table[(j + b) / 16] * a.block_stride;
      step.k[b / 16] = k + at, step.v[b / 16] = v + at;
    }
    step_all_rows(rows, valid, a.count, step);
  }
}

template <class T>
static void attention(const AttentionUnit& a) {
  RowState rows[kUnitRows];
  std::int64_t limit[kUnitRows];  // own tokens a row sees
  for (int i = 0; i < a.count; ++i) {
    const std::int64_t token = (a.first + i) / a.group, head = (a.first + i) % a.group;
    rows[i].q = a.q + token * a.q_stride + head * a.dim;
    rows[i].acc = a.out + token * a.out_stride + head * a.dim;  // the output row itself
    limit[i] = a.own_begin + token + 1;
    start_row(rows[i], a.dim);
  }
  walk_table<T>(a, rows, a.prefix_table, a.prefix_len,
                [&](int) -> std::int64_t { return a.prefix_len; });
  walk_table<T>(a, rows, a.own_table, limit[a.count - 1], [&](int i) { return limit[i]; });
  for (int i = 0; i < a.count; ++i) {
    const V inverse = set1(1.0f / sum(rows[i].sum));
    for (int d = 0; d < a.dim; d += 16) store(rows[i].acc + d, load(rows[i].acc + d) * inverse);
  }
}
