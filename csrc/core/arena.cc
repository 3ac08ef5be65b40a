#include "core/arena.h"

#include <algorithm>

namespace dream_r {

Tensor Arena::take(Shape shape, DType dtype) {
  constexpr std::size_t kAlign = 64;
  const std::size_t bytes = static_cast<std::size_t>(shape.numel()) * size_of(dtype);
  const std::size_t need = (bytes + kAlign - 1) / kAlign * kAlign;
  while (chunk_ < chunks_.size() && used_ + need > chunks_[chunk_]->bytes()) {
    ++chunk_;
    used_ = 0;
  }
  if (chunk_ == chunks_.size())
    chunks_.push_back(Buffer::allocate(std::max(need, chunk_bytes_), device_));
  auto& buffer = chunks_[chunk_];
  auto* data = buffer->data() + used_;
  used_ += need;
  return Tensor(buffer, data, dtype, shape);
}

std::size_t Arena::capacity() const {
  std::size_t n = 0;
  for (const auto& c : chunks_) n += c->bytes();
  return n;
}

}  // namespace dream_r
