#include "common.h"

using namespace dream_r;
using namespace dream_r::test;

TEST_CASE("copy and copy_to move bytes between devices") {
  each_device([](Stream& s) {
    Random r;
    const Tensor x = r.tensor({5, 7});
    const Tensor there = ops::copy_to(s, x, s.device());
    CHECK(there.device() == s.device());
    CHECK((there.data<float>() == x.data<float>()) == !s.device().on_cuda());
    Tensor also = Tensor::empty({5, 7}, DType::f32, s.device());
    ops::copy(s, there, also);
    CHECK(same_bits(ops::copy_to(s, also, {}), x));
    Tensor row = filled({1, 7}, 0);
    ops::copy(s, also.rows(3, 4), row);
    CHECK(same_bits(row, x.rows(3, 4)));
    CHECK_FALSE(ops::copy_to(s, Tensor(), s.device()).defined());
    CHECK(rejects("copy", [&] { ops::copy(s, x, filled({7, 5}, 0)); }));
    CHECK(rejects("copy", [&] { ops::copy(s, x, Tensor()); }));
    CHECK(rejects("copy", [&] { ops::copy(s, x, ints({1})); }));
  });
}

TEST_CASE("an op's tensors must lie where its stream is") {
  if (!cuda_is_here()) return;
  Stream cpu(1), gpu(cuda_device());
  const Tensor x = filled({2, 4}, 1), w = filled({4}, 1);
  Tensor out = filled({2, 4}, 0);
  CHECK(rejects("rms_norm", [&] { ops::rms_norm(gpu, x, w, 1e-6f, out); }));
  const Tensor there = ops::copy_to(gpu, x, gpu.device());
  CHECK(rejects("rms_norm", [&] { ops::rms_norm(cpu, there, w, 1e-6f, out); }));
  CHECK(rejects("copy", [&] { ops::copy(cpu, there, out); }));
  if (cuda::devices().size() < 2) return;
  Stream second(cuda_device(1));
  CHECK(rejects("rms_norm", [&] { ops::rms_norm(second, there, there, 1e-6f, there); }));
  CHECK(same_bits(ops::copy_to(second, ops::copy_to(gpu, there, cuda_device(1)), {}), x));
}
