// softmax(q k^T scale) v, online over steps of 32 keys (two blocks): the running maximum, the sum
// and the weighted values are updated step by step in table order, for each (token, head) by
// itself. Rows of a unit share the loads of keys and values; no row's arithmetic depends on
// another.

struct RowState {
  const float* q;
  float* acc;   // the weighted values so far
  float alpha;  // what the step's update scales the earlier sums by
  float max;
  V sum;        // lane-wise; folded at the end
  float p[32];  // the step's weights
};

// Two blocks of keys [dim][16] and their values; the second is not touched while seen <= 16.
template <class T>
struct KeyStep {
  const T *k0, *k1, *v0, *v1;
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

// Adds elements d, d + 2, ... of k: [dim][16] to 16 scores of each of R rows.
template <int R, class T>
DR_INLINE void add_every_other(const RowState* rows, const T* k, int d, int dim, V* s) {
  for (; d < dim; d += 2) {
    const V kd = pin(load(k + d * 16));
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) s[r] = fma(set1(rows[r].q[d]), kd, s[r]);
  }
}

// 16 scores of each of R rows in two chains a row, over even and over odd elements: together where
// the registers hold all of them, else one after the other.
template <int R, class T>
DR_INLINE void block_scores(const RowState* rows, const T* k, int dim, V* s) {
  V odd[R];
  for (int r = 0; r < R; ++r) s[r] = odd[r] = set1(0.0f);
  if constexpr (R > kScoreRows) {
    add_every_other<R>(rows, k, 0, dim, s);
    add_every_other<R>(rows, k, 1, dim, odd);
  } else {
    for (int d = 0; d < dim; d += 2) {
      const V k0 = pin(load(k + d * 16)), k1 = pin(load(k + d * 16 + 16));
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) {
        s[r] = fma(set1(rows[r].q[d]), k0, s[r]);
        odd[r] = fma(set1(rows[r].q[d + 1]), k1, odd[r]);
      }
    }
  }
  for (int r = 0; r < R; ++r) s[r] = s[r] + odd[r];
}

DR_INLINE V unseen_after(V s, int valid) {
  return valid < 16 ? keep(s, valid < 0 ? 0 : valid, set1(-__builtin_inff())) : s;
}

// Turns the step's scores into weights; keys [valid, 32) are not seen (valid >= 1).
DR_INLINE void weigh(RowState& r, V s0, V s1, int valid) {
  s0 = unseen_after(s0, valid);
  s1 = unseen_after(s1, valid - 16);
  const float most = hmax(max(s0, s1));
  r.alpha = 1.0f;
  if (most > r.max) {
    r.alpha = first(vexp(set1(r.max - most)));
    r.max = most;
  }
  const V m = set1(r.max);
  const V p0 = vexp(s0 - m), p1 = vexp(s1 - m);
  r.sum = fma(r.sum, set1(r.alpha), p0) + p1;
  store(r.p, p0);
  store(r.p + 16, p1);
}

// acc = acc * alpha + sum over j < seen of p[j] v[j]; one chain a block.
template <int R, class T>
DR_INLINE void add_values(RowState* rows, const KeyStep<T>& step, int seen) {
  const int n0 = seen < 16 ? seen : 16, n1 = seen - 16;
  for (int d = 0; d < step.wide; d += 16) {
    V a[R], b[R];
    for (int r = 0; r < R; ++r) {
      a[r] = load(rows[r].acc + d) * set1(rows[r].alpha);
      b[r] = set1(0.0f);
    }
    for (int j = 0; j < n0; ++j) {
      const V v = pin(load(step.v0 + j * step.v_stride + d));
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) a[r] = fma(set1(rows[r].p[j]), v, a[r]);
    }
    for (int j = 0; j < n1; ++j) {
      const V v = pin(load(step.v1 + j * step.v_stride + d));
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) b[r] = fma(set1(rows[r].p[16 + j]), v, b[r]);
    }
    for (int r = 0; r < R; ++r) store(rows[r].acc + d, a[r] + b[r]);
  }
}

// One step for R rows that see valid[r] >= 1 of its keys.
template <int R, class T>
static void step_rows(RowState* rows, const int* valid, const KeyStep<T>& step) {
  int seen = 0;
  for (int r = 0; r < R; ++r) seen = valid[r] > seen ? valid[r] : seen;
  V s0[R], s1[R];
  block_scores<R>(rows, step.k0, step.dim, s0);
  if (seen > 16) {
    block_scores<R>(rows, step.k1, step.dim, s1);
  } else {
    for (int r = 0; r < R; ++r) s1[r] = set1(0.0f);
  }
  const V scale = set1(step.scale);
  for (int r = 0; r < R; ++r) weigh(rows[r], s0[r] * scale, s1[r] * scale, valid[r]);
  add_values<R>(rows, step, seen);
}

// Rows that see nothing of the step come first (their `valid` is <= 0) and are left out.
template <class T>
static void step_all_rows(RowState* rows, const int* valid, int count, const KeyStep<T>& step) {
  int i = 0;
  while (i < count && valid[i] <= 0) ++i;
  for (; i + 4 <= count; i += 4) step_rows<4>(rows + i, valid + i, step);
  if (i + 2 <= count) {
    step_rows<2>(rows + i, valid + i, step);
    i += 2;
  }
  if (i < count) step_rows<1>(rows + i, valid + i, step);
}

DR_INLINE int clamp32(std::int64_t n) { return n > 32 ? 32 : static_cast<int>(n); }

// Steps over the first `tokens` tokens of a table; valid_of(i, step's first token) for each row.
template <class T, class F>
DR_INLINE void walk_table(const AttentionUnit& a, RowState* rows, const std::int32_t* table,
                          std::int64_t tokens, F&& valid_of) {
  const T* k = static_cast<const T*>(a.k);
  const T* v = static_cast<const T*>(a.v);
  int valid[kUnitRows];
  for (std::int64_t j = 0; j < tokens; j += 32) {
    for (int i = 0; i < a.count; ++i) valid[i] = clamp32(valid_of(i) - j);
    const std::int64_t at0 = table[j / 16] * a.block_stride;
    const std::int64_t at1 = j + 16 < tokens ? table[j / 16 + 1] * a.block_stride : at0;
    const KeyStep<T> step{k + at0, k + at1, v + at0, v + at1, a.dim, a.dim, a.dim, a.scale};
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
