// Reductions over a row of logits. NaN counts as -inf.

DR_INLINE V logits_at(const float* x, int n) {
  const V lowest = set1(-__builtin_inff());
  V v = load_some(x, n);
  if (n < 16) v = keep(v, n, lowest);
  return max(v, lowest);  // max gives its second operand where the first is NaN
}

static float max_of(const float* x, std::int64_t n) {
  V best[4];
  for (auto& b : best) b = set1(-__builtin_inff());
  std::int64_t i = 0;
  for (; i + 64 <= n; i += 64)
    for (int j = 0; j < 4; ++j) best[j] = max(load(x + i + 16 * j), best[j]);
  for_lanes(n - i, [&](std::int64_t d, int k) { best[0] = max(logits_at(x + i + d, k), best[0]); });
  return hmax(max(max(best[0], best[1]), max(best[2], best[3])));
}

static std::int64_t argmax(const float* x, std::int64_t n) {
  const float best = max_of(x, n);
  std::int64_t i = 0;
  // The first chunk that reaches the maximum, then the first element in it.
  for (; i + 256 < n; i += 256)
    if (max_of(x + i, 256) == best) break;
  for (; i < n; ++i)
    if (x[i] == best) return i;
  return 0;  // nothing but -inf and NaN
}

static double exp_sum(const float* x, std::int64_t n, float max) {
  const V m = set1(max);
  double total = 0;
  for (std::int64_t i = 0; i < n; i += 256) {  // f32 over 16 values a lane, f64 beyond
    const std::int64_t left = n - i < 256 ? n - i : 256;
    V s = set1(0.0f);
    for_lanes(left, [&](std::int64_t d, int k) { s = s + vexp(logits_at(x + i + d, k) - m); });
    total += sum_f64(s);
  }
  return total;
}

static void exp_of(const float* x, std::int64_t n, float max, float* out) {
  const V m = set1(max);
  for_lanes(n,
            [&](std::int64_t i, int k) { store_some(out + i, vexp(logits_at(x + i, k) - m), k); });
}
