// exp, erf and friends on V. Included once for each instruction set.

constexpr float kLog2E = 1.44269504f;

// exp(x), relative error < 2e-7 down to 2^-126, 0 below that; saturates above 88.37.
DR_INLINE V vexp(V x) {
  const V lowest = set1(-87.336544f);
  const V c = min(set1(88.37626f), max(lowest, x));
  const V n = round(c * set1(kLog2E));
  V r = fma(n, set1(-0.693359375f), c);  // ln 2 in two parts: the first product is exact
  r = fma(n, set1(2.12194440e-4f), r);
  V p = set1(1.98756915e-4f);
  p = fma(p, r, set1(1.39819995e-3f));
  p = fma(p, r, set1(8.33345190e-3f));
  p = fma(p, r, set1(4.16657963e-2f));
  p = fma(p, r, set1(1.66666655e-1f));
  p = fma(p, r, set1(5.00000000e-1f));
  p = fma(p, r * r, r) + set1(1.0f);
  return if_less(x, lowest, set1(0.0f), scale2(p, n));
}

// 2^x for x <= 0, relative error < 2e-7; 2^-126 below that. (A minimax polynomial on [-0.5, 0.5].)
DR_INLINE V vpow2(V x) {
  const V c = max(set1(-126.0f), x), n = round(c), r = c - n;
  V p = fma(set1(1.32647273e-3f), r, set1(9.67151299e-3f));
  p = fma(p, r, set1(5.55073358e-2f));
  p = fma(p, r, set1(2.40222424e-1f));
  p = fma(p, r, set1(6.93147004e-1f));
  return scale2(fma(p, r, set1(1.0f)), n);
}

// erf(x) as an odd rational approximation on [-4, 4], absolute error < 5e-7.
DR_INLINE V verf(V x) {
  x = min(set1(4.0f), max(set1(-4.0f), x));
  const V z = x * x;
  V p = set1(-2.72614225801306e-10f);
  p = fma(p, z, set1(2.77068142495902e-08f));
  p = fma(p, z, set1(-2.10102402082508e-06f));
  p = fma(p, z, set1(-5.69250639462346e-05f));
  p = fma(p, z, set1(-7.34990630326855e-04f));
  p = fma(p, z, set1(-2.95459980854025e-03f));
  p = fma(p, z, set1(-1.60960333262415e-02f));
  V q = set1(-1.45660718464996e-05f);
  q = fma(q, z, set1(-2.13374055278905e-04f));
  q = fma(q, z, set1(-1.68282697438203e-03f));
  q = fma(q, z, set1(-7.37332916720468e-03f));
  q = fma(q, z, set1(-1.42647390514189e-02f));
  return x * p / q;
}

// 0 where exp(-x) leaves the range of f32, so that x * sigmoid(x) goes to 0 as well.
DR_INLINE V sigmoid(V x) {
  const V one = set1(1.0f), y = one / (one + vexp(set1(0.0f) - x));
  return if_less(x, set1(-88.37626f), set1(0.0f), y);
}

// Calls body(offset, lanes) over [0, n) in steps of 16; lanes < 16 only at the end.
template <class F>
DR_INLINE void for_lanes(std::int64_t n, F&& body) {
  std::int64_t i = 0;
  for (; i + 16 <= n; i += 16) body(i, 16);
  if (i < n) body(i, static_cast<int>(n - i));
}
DR_INLINE V load_some(const float* p, int n) { return n == 16 ? load(p) : load(p, n); }
DR_INLINE void store_some(float* p, V a, int n) {
  if (n == 16)
    store(p, a);
  else
    store(p, a, n);
}
