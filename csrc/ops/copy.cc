#include <cstring>

#include "ops/checks.h"
#include "ops/ops.h"

namespace dream_r::ops {

void copy(Stream& s, const Tensor& from, Tensor to) {
  const char* op = "copy";
  DR_CHECK(from.defined() && to.defined()) << op << ": an undefined tensor";
  check_shape(op, "to", to, from.dtype(), from.shape());
  for (const Tensor* t : {&from, static_cast<const Tensor*>(&to)})
    DR_CHECK(!t->device().on_cuda() || s.device().on_cuda())
        << op << ": a tensor on " << t->device().str() << ", the stream is on the CPU";
  if (from.nbytes() == 0) return;
  if (!s.device().on_cuda()) {
    std::memcpy(to.data<std::byte>(), from.data<std::byte>(), from.nbytes());
    return;
  }
  cuda::copy(to.data<std::byte>(), from.data<std::byte>(), from.nbytes(), s.cuda());
  if (!to.device().on_cuda()) s.wait();
}

Tensor copy_to(Stream& s, const Tensor& from, Device device) {
  if (!from.defined() || from.device() == device) return from;
  Tensor to = Tensor::empty(from.shape(), from.dtype(), device);
  copy(s, from, to);
  return to;
}

}  // namespace dream_r::ops
