// Rotation of the vision tower's queries and keys. Plain loops: beside the linear layers of the
// same tokens (hidden times more work) its time does not show.
#include "ops/cuda/kernels.h"
#include "ops/dispatch.h"
#include "ops/ops.h"

namespace dream_r::ops {
namespace {

void rotate_head(float* head, int half, const float* cos, const float* sin) {
  for (int i = 0; i < half; ++i) {
    const float a = head[i];
    const float b = head[half + i];
    head[i] = a * cos[i] - b * sin[i];
    head[half + i] = b * cos[i] + a * sin[i];
  }
}

}  // namespace

void rotate_half(Stream& s, Tensor qkv, int heads, int dim, const Tensor& cos, const Tensor& sin) {
  const std::int64_t width = std::int64_t{3} * heads * dim;
  DR_CHECK(heads > 0 && dim > 0 && dim % 2 == 0 && qkv.shape().rank() == 2 && qkv.dim(1) == width)
      << "rotate_half: qkv " << qkv.shape().str() << ", heads " << heads << " x " << dim;
  const Shape angles{qkv.dim(0), dim / 2};
  DR_CHECK(cos.shape() == angles && sin.shape() == angles)
      << "rotate_half: cos " << cos.shape().str() << ", sin " << sin.shape().str() << ", wanted "
      << angles.str();
  check_device("rotate_half", s, qkv, cos, sin);
  if (on_cuda(s, [&](auto stream) {
        cuda::rope({qkv.f32(), heads, heads, dim, nullptr, nullptr, 0.0f, cos.f32(), sin.f32()},
                   qkv.dim(0), stream);
      }))
    return;
  const int half = dim / 2;
  float* x = qkv.f32();
  const float* c = cos.f32();
  const float* n = sin.f32();
  s.parallel_for(qkv.dim(0), 16, [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t)
      for (int h = 0; h < 2 * heads; ++h)  // query heads, then key heads
        rotate_head(x + t * width + std::int64_t{h} * dim, half, c + t * half, n + t * half);
  });
}

}  // namespace dream_r::ops
