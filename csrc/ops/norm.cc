#include "ops/checks.h"
#include "ops/cpu/kernels.h"
#include "ops/cuda/kernels.h"
#include "ops/dispatch.h"
#include "ops/ops.h"

namespace dream_r::ops {
namespace {
double norm_ns(std::int64_t h) { return 15.0 + 0.12 * static_cast<double>(h); }
}  // namespace

void rms_norm(Stream& s, const Tensor& x, const Tensor& w, float eps, Tensor out) {
  check_rank("rms_norm", "x", x, DType::f32, 2);
  const std::int64_t rows = x.dim(0), h = x.dim(1);
  check_shape("rms_norm", "w", w, DType::f32, {h});
  check_shape("rms_norm", "out", out, DType::f32, x.shape());
  check_device("rms_norm", s, x, w, out);
  if (on_cuda(s, [&](auto stream) {
        cuda::rms_norm(x.data<float>(), w.data<float>(), eps, rows, h, out.data<float>(), stream);
      }))
    return;
  const auto& kernel = cpu::kernels();
  s.parallel_for(rows, grain_for(norm_ns(h)), [&](auto b, auto e) {
    kernel.rms_norm(x.data<float>() + b * h, w.data<float>(), eps, e - b, h,
                    out.data<float>() + b * h);
  });
}

void add_rms_norm(Stream& s, Tensor residual, const Tensor& delta, const Tensor& w, float eps,
                  Tensor out) {
  const char* op = "add_rms_norm";
  check_rank(op, "residual", residual, DType::f32, 2);
  const std::int64_t rows = residual.dim(0), h = residual.dim(1);
  check_shape(op, "delta", delta, DType::f32, residual.shape());
  check_shape(op, "w", w, DType::f32, {h});
  check_shape(op, "out", out, DType::f32, residual.shape());
  check_device(op, s, residual, delta, w, out);
  if (on_cuda(s, [&](auto stream) {
        cuda::add_rms_norm(residual.data<float>(), delta.data<float>(), w.data<float>(), eps, rows,
                           h, out.data<float>(), stream);
      }))
    return;
  const auto& kernel = cpu::kernels();
  s.parallel_for(rows, grain_for(1.5 * norm_ns(h)), [&](auto b, auto e) {
    kernel.add_rms_norm(residual.data<float>() + b * h, delta.data<float>() + b * h,
                        w.data<float>(), eps, e - b, h, out.data<float>() + b * h);
  });
}

void layer_norm(Stream& s, const Tensor& x, const Tensor& w, const Tensor& b, float eps,
                Tensor out) {
  const char* op = "layer_norm";
  check_rank(op, "x", x, DType::f32, 2);
  const std::int64_t rows = x.dim(0), h = x.dim(1);
  check_shape(op, "w", w, DType::f32, {h});
  check_shape(op, "b", b, DType::f32, {h});
  check_shape(op, "out", out, DType::f32, x.shape());
  check_device(op, s, x, w, b, out);
  if (on_cuda(s, [&](auto stream) {
        cuda::layer_norm(x.data<float>(), w.data<float>(), b.data<float>(), eps, rows, h,
                         out.data<float>(), stream);
      }))
    return;
  const auto& kernel = cpu::kernels();
  s.parallel_for(rows, grain_for(1.5 * norm_ns(h)), [&](auto begin, auto end) {
    kernel.layer_norm(x.data<float>() + begin * h, w.data<float>(), b.data<float>(), eps,
                      end - begin, h, out.data<float>() + begin * h);
  });
}

void silu_mul(Stream& s, const Tensor& gate_up, Tensor out) {
  check_rank("silu_mul", "out", out, DType::f32, 2);
  const std::int64_t rows = out.dim(0), f = out.dim(1);
  check_shape("silu_mul", "gate_up", gate_up, DType::f32, {rows, 2 * f});
  check_device("silu_mul", s, gate_up, out);
  if (on_cuda(s, [&](auto stream) {
        cuda::silu_mul(gate_up.data<float>(), rows, f, out.data<float>(), stream);
      }))
    return;
  const auto& kernel = cpu::kernels();
  s.parallel_for(rows, grain_for(10.0 + 0.6 * static_cast<double>(f)), [&](auto b, auto e) {
    kernel.silu_mul(gate_up.data<float>() + b * 2 * f, e - b, f, out.data<float>() + b * f);
  });
}

void gelu(Stream& s, Tensor x, Gelu kind) {
  DR_CHECK(x.dtype() == DType::f32) << "gelu: x is " << name_of(x.dtype()) << ", f32 wanted";
  check_device("gelu", s, x);
  if (on_cuda(s, [&](auto stream) {
        const auto launch = kind == Gelu::exact ? cuda::gelu_exact : cuda::gelu_tanh;
        launch(x.data<float>(), x.numel(), stream);
      }))
    return;
  const auto& kernel = cpu::kernels();
  const auto fn = kind == Gelu::exact ? kernel.gelu_exact : kernel.gelu_tanh;
  // Chunks of 16: the split never changes which lane of a vector an element meets.
  s.parallel_for(
      x.numel(), grain_for(0.4), [&](auto b, auto e) { fn(x.data<float>() + b, e - b); }, 16);
}

void add(Stream& s, Tensor a, const Tensor& b) {
  check_shape("add", "a", a, DType::f32, a.shape());
  check_shape("add", "b", b, DType::f32, a.shape());
  check_device("add", s, a, b);
  if (on_cuda(s,
              [&](auto stream) { cuda::add(a.data<float>(), b.data<float>(), a.numel(), stream); }))
    return;
  const auto& kernel = cpu::kernels();
  s.parallel_for(a.numel(), grain_for(0.1), [&](auto begin, auto end) {
    kernel.add(a.data<float>() + begin, b.data<float>() + begin, end - begin);
  });
}

}  // namespace dream_r::ops
