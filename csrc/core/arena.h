#pragma once
// Bump allocator for one forward pass: take() never frees, reset() takes everything back. Owned by
// one Lane; on a CUDA device its memory serves one Stream, in whose order reuse is safe. It grows
// by whole chunks and keeps them, so after the first forward of a shape there is no allocation and
// addresses repeat.
#include <memory>
#include <vector>

#include "core/tensor.h"

namespace dream_r {

class Arena {
 public:
  // A chunk has `chunk_bytes` or, where `most_bytes` is more, what all before it have together, up
  // to that; a tensor that is larger has one of its own size.
  explicit Arena(Device device = {}, std::size_t chunk_bytes = std::size_t{4} << 20,
                 std::size_t most_bytes = 0)
      : device_(device), chunk_bytes_(chunk_bytes), most_bytes_(most_bytes) {}
  Device device() const { return device_; }
  // 64-byte aligned, uninitialised, valid until reset().
  Tensor take(Shape shape, DType dtype);
  void reset() { at_ = {}; }
  // How far it has been taken. rewind() goes there: what was taken behind is free again, and what
  // was taken before is valid (if it was, at that mark).
  struct Mark {
    std::size_t chunk = 0, used = 0;
  };
  Mark mark() const { return at_; }
  void rewind(Mark mark) { at_ = mark; }
  std::size_t capacity() const;

 private:
  Device device_;
  std::size_t chunk_bytes_, most_bytes_;
  std::vector<std::shared_ptr<Buffer>> chunks_;
  Mark at_;
};

}  // namespace dream_r
