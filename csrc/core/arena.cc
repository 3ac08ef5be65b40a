#include "core/arena.h"

#include <algorithm>

namespace dream_r {

Tensor Arena::take(Shape shape, DType dtype) {
  constexpr std::size_t kAlign = 64;
  const std::size_t bytes = static_cast<std::size_t>(shape.numel()) * size_of(dtype);
  const std::size_t need = (bytes + kAlign - 1) / kAlign * kAlign;
  while (at_.chunk < chunks_.size() && at_.used + need > chunks_[at_.chunk]->bytes()) {
    ++at_.chunk;
    at_.used = 0;
  }
  if (at_.chunk == chunks_.size()) {
    const std::size_t grown = std::max(chunk_bytes_, std::min(capacity(), most_bytes_));
    chunks_.push_back(Buffer::allocate(std::max(need, grown), device_));
  }
  auto& buffer = chunks_[at_.chunk];
  auto* data = buffer->data() + at_.used;
  at_.used += need;
  return Tensor(buffer, data, dtype, shape);
}

std::size_t Arena::capacity() const {
  std::size_t n = 0;
  for (const auto& c : chunks_) n += c->bytes();
  return n;
}

}  // namespace dream_r
