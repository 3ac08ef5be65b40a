// Norms and element-wise kernels. A row is reduced in four interleaved vector sums, always the
// same.

struct Sums {
  V a[4];
};
DR_INLINE float total(const Sums& s) { return sum((s.a[0] + s.a[1]) + (s.a[2] + s.a[3])); }

// sum over i of f(x[i]); f maps a vector and its sum so far to the new sum.
template <class F>
DR_INLINE float reduce(const float* x, std::int64_t n, F&& f) {
  const V zero = set1(0.0f);
  Sums s{{zero, zero, zero, zero}};
  std::int64_t i = 0;
  for (; i + 64 <= n; i += 64)
    for (int j = 0; j < 4; ++j) s.a[j] = f(load(x + i + 16 * j), s.a[j], 16);
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {  // unrolled, the sums stay in registers
    if (i + 16 > n) break;
    s.a[j] = f(load(x + i), s.a[j], 16);
    i += 16;
  }
  if (i < n) s.a[3] = f(load(x + i, static_cast<int>(n - i)), s.a[3], static_cast<int>(n - i));
  return total(s);
}

DR_INLINE float inverse_rms(const float* x, std::int64_t h, float eps) {
  const float squares = reduce(x, h, [](V v, V s, int) { return fma(v, v, s); });
  return 1.0f / __builtin_sqrtf(squares / static_cast<float>(h) + eps);
}

DR_INLINE void rms_row(const float* x, const float* w, float eps, std::int64_t h, float* out) {
  const V scale = set1(inverse_rms(x, h, eps));
  for_lanes(h, [&](std::int64_t i, int n) {
    store_some(out + i, load_some(x + i, n) * scale * load_some(w + i, n), n);
  });
}

static void rms_norm(const float* x, const float* w, float eps, std::int64_t rows, std::int64_t h,
                     float* out) {
  for (std::int64_t t = 0; t < rows; ++t) rms_row(x + t * h, w, eps, h, out + t * h);
}

static void add(float* a, const float* b, std::int64_t n) {
  for_lanes(n, [&](std::int64_t i, int k) {
    store_some(a + i, load_some(a + i, k) + load_some(b + i, k), k);
  });
}

static void add_rms_norm(float* residual, const float* delta, const float* w, float eps,
                         std::int64_t rows, std::int64_t h, float* out) {
  for (std::int64_t t = 0; t < rows; ++t) {
    add(residual + t * h, delta + t * h, h);
    rms_row(residual + t * h, w, eps, h, out + t * h);
  }
}

static void layer_norm(const float* x, const float* w, const float* b, float eps, std::int64_t rows,
                       std::int64_t h, float* out) {
  const float count = static_cast<float>(h);
  for (std::int64_t t = 0; t < rows; ++t, x += h, out += h) {
    const V mean = set1(reduce(x, h, [](V v, V s, int) { return s + v; }) / count);
    const float var = reduce(x, h, [&](V v, V s, int n) {
      V d = v - mean;
      if (n < 16) d = keep(d, n, set1(0.0f));
      return fma(d, d, s);
    });
    const V scale = set1(1.0f / __builtin_sqrtf(var / count + eps));
    for_lanes(h, [&](std::int64_t i, int n) {
      const V unit = (load_some(x + i, n) - mean) * scale;
      store_some(out + i, fma(unit, load_some(w + i, n), load_some(b + i, n)), n);
    });
  }
}

static void silu_mul(const float* gate_up, std::int64_t rows, std::int64_t f, float* out) {
  for (std::int64_t t = 0; t < rows; ++t, gate_up += 2 * f, out += f)
    for_lanes(f, [&](std::int64_t i, int n) {
      const V g = load_some(gate_up + i, n);
      store_some(out + i, g * sigmoid(g) * load_some(gate_up + f + i, n), n);
    });
}

static void gelu_exact(float* x, std::int64_t n) {
  for_lanes(n, [&](std::int64_t i, int k) {
    const V v = load_some(x + i, k);
    const V e = verf(v * set1(0.70710678f)) + set1(1.0f);
    store_some(x + i, v * set1(0.5f) * e, k);
  });
}

// 0.5 (1 + tanh(u)) = sigmoid(2u), u = sqrt(2 / pi) (x + 0.044715 x^3).
static void gelu_tanh(float* x, std::int64_t n) {
  for_lanes(n, [&](std::int64_t i, int k) {
    const V v = load_some(x + i, k);
    const V u = v * fma(v * v, set1(2.0f * 0.79788456f * 0.044715f), set1(2.0f * 0.79788456f));
    store_some(x + i, v * sigmoid(u), k);
  });
}

static void mix4(const float* const* rows, const float* weight, std::int64_t h, float* out) {
  for_lanes(h, [&](std::int64_t i, int n) {
    V s = load_some(rows[0] + i, n) * set1(weight[0]);
    for (int j = 1; j < 4; ++j) s = fma(load_some(rows[j] + i, n), set1(weight[j]), s);
    store_some(out + i, s, n);
  });
}

// ---- rotary ----
DR_INLINE void rope_head(float* x, int half, const float* cos, const float* sin) {
  for_lanes(half, [&](std::int64_t i, int n) {
    const V a = load_some(x + i, n), b = load_some(x + half + i, n);
    const V c = load_some(cos + i, n), s = load_some(sin + i, n);
    const V zero = set1(0.0f);
    store_some(x + i, fma(a, c, zero - b * s), n);
    store_some(x + half + i, fma(b, c, a * s), n);
  });
}

static void qk_norm_rope(const RopeArgs& a) {
  const int half = a.dim / 2;
  float* row = a.qkv;
  for (std::int64_t t = 0; t < a.rows; ++t, row += (a.q + 2 * a.kv) * a.dim) {
    for (int head = 0; head < a.q + a.kv; ++head) {
      float* x = row + head * a.dim;
      const float* norm = head < a.q ? a.q_norm : a.k_norm;
      if (norm) rms_row(x, norm, a.eps, a.dim, x);
      rope_head(x, half, a.cos + t * half, a.sin + t * half);
    }
  }
}
