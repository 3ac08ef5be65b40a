/* Fused CPU kernels of training: memory-bound chains of small operations as one pass each.
 * All arrays are contiguous float32; rows are independent and shared out by OpenMP. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define API __attribute__((visibility("default")))

typedef float v16 __attribute__((vector_size(64), aligned(4)));

enum { R = 8, D = 32 }; /* rows handled together; head width */

static inline v16 load(const float* p) { return *(const v16*)p; }
static inline void store(float* p, v16 x) { *(v16*)p = x; }

/* The columns that any of R rows may see: [0, end0) and [begin1, end1), in steps of 16. */
typedef struct { int end0, begin1, end1; } Cover;

static Cover cover(const int* anchor, const int* lo, int i0, int rows) {
  int a = 0, l = 1 << 30, e = 0;
  for (int i = i0; i < i0 + rows; ++i) {
    if (anchor[i] + 1 > a) a = anchor[i] + 1;
    if (lo[i] <= i) {
      if (lo[i] < l) l = lo[i];
      e = i + 1;
    }
  }
  Cover c = {(a + 15) & ~15, 0, 0};
  c.begin1 = (l & ~15) > c.end0 ? (l & ~15) : c.end0;
  c.end1 = (e + 15) & ~15;
  return c;
}

/* out[r][j] = x[r] . t[:, j] for R rows; t is [D, pad]. */
static void product(const float* x, const float* t, int pad, int from, int to, float* out) {
  for (int j = from; j < to; j += 16) {
    v16 acc[R] = {0};
    for (int d = 0; d < D; ++d) {
      const v16 column = load(t + d * pad + j);
      for (int r = 0; r < R; ++r) acc[r] += x[r * D + d] * column;
    }
    for (int r = 0; r < R; ++r) store(out + r * pad + j, acc[r]);
  }
}

/* out[r] += w[r][j] * y[j] over columns; y is [pad, D]. */
static void gather(const float* w, const float* y, int pad, int from, int to, float* out) {
  v16 acc[R][2];
  for (int r = 0; r < R; ++r) acc[r][0] = load(out + r * D), acc[r][1] = load(out + r * D + 16);
  for (int j = from; j < to; ++j) {
    const v16 a = load(y + j * D), b = load(y + j * D + 16);
    for (int r = 0; r < R; ++r) acc[r][0] += w[r * pad + j] * a, acc[r][1] += w[r * pad + j] * b;
  }
  for (int r = 0; r < R; ++r) store(out + r * D, acc[r][0]), store(out + r * D + 16, acc[r][1]);
}

/* y[j] += w[r][j] * x[r] over rows. */
static void scatter(const float* w, const float* x, int pad, int from, int to, float* y) {
  v16 in[R][2];
  for (int r = 0; r < R; ++r) in[r][0] = load(x + r * D), in[r][1] = load(x + r * D + 16);
  for (int j = from; j < to; ++j) {
    v16 a = load(y + j * D), b = load(y + j * D + 16);
    for (int r = 0; r < R; ++r) a += w[r * pad + j] * in[r][0], b += w[r * pad + j] * in[r][1];
    store(y + j * D, a), store(y + j * D + 16, b);
  }
}

static void turn(const float* x, int length, int pad, float* t) {
  memset(t, 0, (size_t)D * pad * sizeof(float));
  for (int j = 0; j < length; ++j)
    for (int d = 0; d < D; ++d) t[d * pad + j] = x[j * D + d];
}

/* Scores of a row become exp(score * scale - lse), 0 where the row may not look. */
static void weigh(float* s, Cover c, int a, int l, int i, float scale, float lse) {
  for (int j = 0; j < a; ++j) s[j] = expf(s[j] * scale - lse);
  for (int j = a; j < c.end0; ++j) s[j] = j >= l && j <= i ? expf(s[j] * scale - lse) : 0.f;
  for (int j = c.begin1; j < c.end1; ++j)
    s[j] = j >= l && j <= i ? expf(s[j] * scale - lse) : 0.f;
}

static float row_lse(const float* s, Cover c, int a, int l, int i, float scale) {
  float top = -1e30f, sum = 0.f;
  for (int j = 0; j < a; ++j) top = s[j] > top ? s[j] : top;
  for (int j = l > a ? l : a; j <= i && l <= i; ++j) top = s[j] > top ? s[j] : top;
  for (int j = 0; j < a; ++j) sum += expf((s[j] - top) * scale);
  for (int j = l > a ? l : a; j <= i && l <= i; ++j) sum += expf((s[j] - top) * scale);
  return top * scale + logf(sum);
}

/* Attention under a tree mask: a token sees columns [0, anchor] and, inside a branch, [lo, i].
 * q, out [B, H, S, D]; k, v [B, K, S, D]; anchor, lo [B, S]; lse [B, H, S] is for the way back. */
API void attend_forward(const float* q, const float* k, const float* v, const int* anchor,
                        const int* lo, float* out, float* lse, int batch, int heads, int kv,
                        int length) {
  const int pad = (length + 15) & ~15, group = heads / kv;
  const float scale = 1.f / sqrtf(D);
#pragma omp parallel
  {
    float* kt = malloc(sizeof(float) * (2 * D + R) * pad);
    float *vp = kt + D * pad, *s = vp + D * pad;
#pragma omp for schedule(dynamic)
    for (int task = 0; task < batch * kv; ++task) {
      const int b = task / kv;
      const int *an = anchor + b * length, *low = lo + b * length;
      turn(k + (long)task * length * D, length, pad, kt);
      memset(vp, 0, sizeof(float) * D * pad);
      memcpy(vp, v + (long)task * length * D, sizeof(float) * D * length);
      for (int g = 0; g < group; ++g) {
        const long head = (long)task * group + g;
        for (int i0 = 0; i0 < length; i0 += R) {
          const int rows = length - i0 < R ? length - i0 : R;
          float x[R * D] = {0}, y[R * D] = {0};
          memcpy(x, q + (head * length + i0) * D, sizeof(float) * rows * D);
          const Cover c = cover(an, low, i0, rows);
          memset(s, 0, sizeof(float) * R * pad);
          product(x, kt, pad, 0, c.end0, s);
          product(x, kt, pad, c.begin1, c.end1, s);
          for (int r = 0; r < rows; ++r) {
            const int i = i0 + r, a = an[i] + 1;
            const float z = lse[head * length + i] =
                row_lse(s + r * pad, c, a, low[i], i, scale);
            weigh(s + r * pad, c, a, low[i], i, scale, z);
          }
          gather(s, vp, pad, 0, c.end0, y);
          gather(s, vp, pad, c.begin1, c.end1, y);
          memcpy(out + (head * length + i0) * D, y, sizeof(float) * rows * D);
        }
      }
    }
    free(kt);
  }
}

/* dq like q; dk, dv like k, zeroed by the caller. */
API void attend_backward(const float* q, const float* k, const float* v, const int* anchor,
                         const int* lo, const float* lse, const float* dout, float* dq, float* dk,
                         float* dv, int batch, int heads, int kv, int length) {
  const int pad = (length + 15) & ~15, group = heads / kv;
  const float scale = 1.f / sqrtf(D);
#pragma omp parallel
  {
    float* kt = malloc(sizeof(float) * (5 * D + 2 * R) * pad);
    float *vt = kt + D * pad, *kp = vt + D * pad, *gk = kp + D * pad, *gv = gk + D * pad;
    float *s = gv + D * pad, *ds = s + R * pad;
#pragma omp for schedule(dynamic)
    for (int task = 0; task < batch * kv; ++task) {
      const int b = task / kv;
      const int *an = anchor + b * length, *low = lo + b * length;
      const long block = (long)task * length * D;
      turn(k + block, length, pad, kt);
      turn(v + block, length, pad, vt);
      memset(kp, 0, sizeof(float) * 3 * D * pad);
      memcpy(kp, k + block, sizeof(float) * D * length);
      for (int g = 0; g < group; ++g) {
        const long head = (long)task * group + g;
        for (int i0 = 0; i0 < length; i0 += R) {
          const int rows = length - i0 < R ? length - i0 : R;
          float x[R * D] = {0}, go[R * D] = {0}, gq[R * D] = {0};
          memcpy(x, q + (head * length + i0) * D, sizeof(float) * rows * D);
          memcpy(go, dout + (head * length + i0) * D, sizeof(float) * rows * D);
          const Cover c = cover(an, low, i0, rows);
          memset(s, 0, sizeof(float) * 2 * R * pad);
          product(x, kt, pad, 0, c.end0, s);
          product(x, kt, pad, c.begin1, c.end1, s);
          product(go, vt, pad, 0, c.end0, ds);
          product(go, vt, pad, c.begin1, c.end1, ds);
          for (int r = 0; r < rows; ++r) {
            const int i = i0 + r;
            float *p = s + r * pad, *d = ds + r * pad, dot = 0.f;
            weigh(p, c, an[i] + 1, low[i], i, scale, lse[head * length + i]);
            for (int j = 0; j < c.end0; ++j) dot += p[j] * d[j];
            for (int j = c.begin1; j < c.end1; ++j) dot += p[j] * d[j];
            for (int j = 0; j < c.end0; ++j) d[j] = p[j] * (d[j] - dot) * scale;
            for (int j = c.begin1; j < c.end1; ++j) d[j] = p[j] * (d[j] - dot) * scale;
          }
          for (int r = rows; r < R; ++r) memset(s + r * pad, 0, sizeof(float) * pad);
          for (int r = rows; r < R; ++r) memset(ds + r * pad, 0, sizeof(float) * pad);
          gather(ds, kp, pad, 0, c.end0, gq);
          gather(ds, kp, pad, c.begin1, c.end1, gq);
          scatter(ds, x, pad, 0, c.end0, gk);
          scatter(ds, x, pad, c.begin1, c.end1, gk);
          scatter(s, go, pad, 0, c.end0, gv);
          scatter(s, go, pad, c.begin1, c.end1, gv);
          memcpy(dq + (head * length + i0) * D, gq, sizeof(float) * rows * D);
        }
      }
      memcpy(dk + block, gk, sizeof(float) * D * length);
      memcpy(dv + block, gv, sizeof(float) * D * length);
    }
    free(kt);
  }
}

/* y = x * r * w over the last axis; r [rows] is kept for the way back. */
API void rms_forward(const float* x, const float* w, float* y, float* r, long rows, int width) {
#pragma omp parallel for schedule(static)
  for (long n = 0; n < rows; ++n) {
    const float* xi = x + n * width;
    float* yi = y + n * width;
    float sum = 0.f;
    for (int j = 0; j < width; ++j) sum += xi[j] * xi[j];
    const float s = r[n] = 1.f / sqrtf(sum / width + 1e-6f);
    for (int j = 0; j < width; ++j) yi[j] = xi[j] * s * w[j];
  }
}

API void rms_backward(const float* x, const float* w, const float* r, const float* dy, float* dx,
                      float* dw, long rows, int width) {
#pragma omp parallel
  {
    float local[width];
    memset(local, 0, sizeof local);
#pragma omp for schedule(static)
    for (long n = 0; n < rows; ++n) {
      const float *xi = x + n * width, *dyi = dy + n * width;
      float* dxi = dx + n * width;
      const float s = r[n];
      float dot = 0.f;
      for (int j = 0; j < width; ++j) dot += xi[j] * w[j] * dyi[j];
      const float c = dot * s * s * s / width;
      for (int j = 0; j < width; ++j) {
        local[j] += dyi[j] * xi[j] * s;
        dxi[j] = w[j] * dyi[j] * s - xi[j] * c;
      }
    }
#pragma omp critical
    for (int j = 0; j < width; ++j) dw[j] += local[j];
  }
}

/* QK-norm and rotary embedding: x [B, S, H, D] -> y [B, H, S, D]; cos, sin [B, S, D/2]. */
API void rope_forward(const float* x, const float* w, const float* cos, const float* sin, float* y,
                      float* r, int batch, int length, int heads, int width) {
  const int half = width / 2;
  const long rows = (long)batch * length * heads;
#pragma omp parallel for schedule(static)
  for (long n = 0; n < rows; ++n) {
    const long place = n / heads;
    const int h = n % heads, b = place / length, i = place % length;
    const float *xi = x + n * width, *c = cos + place * half, *s = sin + place * half;
    float* yi = y + (((long)b * heads + h) * length + i) * width;
    float sum = 0.f;
    for (int j = 0; j < width; ++j) sum += xi[j] * xi[j];
    const float k = r[n] = 1.f / sqrtf(sum / width + 1e-6f);
    for (int j = 0; j < half; ++j) {
      const float p = xi[j] * k * w[j], q = xi[j + half] * k * w[j + half];
      yi[j] = p * c[j] - q * s[j];
      yi[j + half] = q * c[j] + p * s[j];
    }
  }
}

API void rope_backward(const float* x, const float* w, const float* cos, const float* sin,
                       const float* r, const float* dy, float* dx, float* dw, int batch, int length,
                       int heads, int width) {
  const int half = width / 2;
  const long rows = (long)batch * length * heads;
#pragma omp parallel
  {
    float local[width], t[width];
    memset(local, 0, sizeof local);
#pragma omp for schedule(static)
    for (long n = 0; n < rows; ++n) {
      const long place = n / heads;
      const int h = n % heads, b = place / length, i = place % length;
      const float *xi = x + n * width, *c = cos + place * half, *s = sin + place * half;
      const float* g = dy + (((long)b * heads + h) * length + i) * width;
      float* dxi = dx + n * width;
      for (int j = 0; j < half; ++j) {
        t[j] = g[j] * c[j] + g[j + half] * s[j];
        t[j + half] = g[j + half] * c[j] - g[j] * s[j];
      }
      const float k = r[n];
      float dot = 0.f;
      for (int j = 0; j < width; ++j) dot += xi[j] * w[j] * t[j];
      const float m = dot * k * k * k / width;
      for (int j = 0; j < width; ++j) {
        local[j] += t[j] * xi[j] * k;
        dxi[j] = w[j] * t[j] * k - xi[j] * m;
      }
    }
#pragma omp critical
    for (int j = 0; j < width; ++j) dw[j] += local[j];
  }
}

/* y = silu(gate) * up, and its gradients. */
API void swiglu_forward(const float* gate, const float* up, float* y, long count) {
#pragma omp parallel for schedule(static)
  for (long n = 0; n < count; ++n) y[n] = gate[n] / (1.f + expf(-gate[n])) * up[n];
}

API void swiglu_backward(const float* gate, const float* up, const float* dy, float* dgate,
                         float* dup, long count) {
#pragma omp parallel for schedule(static)
  for (long n = 0; n < count; ++n) {
    const float s = 1.f / (1.f + expf(-gate[n])), silu = gate[n] * s;
    dup[n] = dy[n] * silu;
    dgate[n] = dy[n] * up[n] * (s + silu * (1.f - s));
  }
}
