#pragma once
// Where an op runs: its Stream's device decides. Ops check their arguments once for every device.
#include <initializer_list>

#include "core/check.h"
#include "core/stream.h"
#include "core/tensor.h"

namespace dream_r::ops {

// Every tensor that is defined lies on the stream's device.
template <class... T>
void check_device(const char* op, const Stream& s, const T&... tensors) {
  const auto one = [&](const Tensor& t) {
    DR_CHECK(!t.defined() || t.device() == s.device())
        << op << ": a tensor on " << t.device().str() << ", the stream is on " << s.device().str();
  };
  (one(tensors), ...);
}

// True where `s` is a CUDA stream; then f(stream) has issued the op. `f` is a generic lambda: built
// without CUDA it is never instantiated, and the kernels it names need not exist.
template <class F>
bool on_cuda(Stream& s, F&& f) {
  if constexpr (kHasCuda) {
    if (s.device().on_cuda()) [[unlikely]] {
      f(s.cuda());
      return true;
    }
  }
  return false;
}

}  // namespace dream_r::ops
