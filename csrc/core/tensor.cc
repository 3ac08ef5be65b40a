#include "core/tensor.h"

#include <cstdlib>
#include <new>

#include "core/cuda.h"

namespace dream_r {

const char* name_of(DType t) {
  switch (t) {
    case DType::f32:
      return "f32";
    case DType::bf16:
      return "bf16";
    case DType::f16:
      return "f16";
    case DType::i16:
      return "i16";
    case DType::i32:
      return "i32";
    case DType::i64:
      return "i64";
    case DType::u8:
      return "u8";
  }
  return "?";
}

std::shared_ptr<Buffer> Buffer::allocate(std::size_t bytes, Device device) {
  if (device.on_cuda()) {
    std::byte* data = cuda::allocate(bytes, device.index);
    const auto free = [device](std::byte* p) { cuda::release(p, device.index); };
    return std::make_shared<Buffer>(data, bytes, std::shared_ptr<std::byte>(data, free), device);
  }
  constexpr std::size_t kAlign = 64;
  const std::size_t padded = (bytes + kAlign - 1) / kAlign * kAlign + kAlign;
  void* p = std::aligned_alloc(kAlign, padded);
  if (!p) DR_FAIL(memory) << "out of memory: " << bytes << " bytes asked for";
  return std::make_shared<Buffer>(static_cast<std::byte*>(p), bytes,
                                  std::shared_ptr<void>(p, std::free));
}

std::shared_ptr<Buffer> Buffer::borrow(void* data, std::size_t bytes, std::shared_ptr<void> keep) {
  return std::make_shared<Buffer>(static_cast<std::byte*>(data), bytes, std::move(keep));
}

Shape::Shape(std::initializer_list<std::int64_t> dims)
    : Shape(std::span<const std::int64_t>(dims.begin(), dims.size())) {}

Shape::Shape(std::span<const std::int64_t> dims) : rank_(static_cast<int>(dims.size())) {
  DR_CHECK(rank_ <= kMaxRank) << "rank " << rank_ << " is more than " << kMaxRank;
  for (int i = 0; i < rank_; ++i) dims_[i] = dims[i];
}

std::int64_t Shape::numel() const {
  std::int64_t n = 1;
  for (int i = 0; i < rank_; ++i) n *= dims_[i];
  return n;
}

std::string Shape::str() const {
  std::string s = "[";
  for (int i = 0; i < rank_; ++i) s += (i ? ", " : "") + std::to_string(dims_[i]);
  return s + "]";
}

Tensor Tensor::empty(Shape shape, DType dtype, Device device) {
  auto buffer = Buffer::allocate(static_cast<std::size_t>(shape.numel()) * size_of(dtype), device);
  auto* data = buffer->data();
  return Tensor(std::move(buffer), data, dtype, shape);
}

Tensor Tensor::rows(std::int64_t begin, std::int64_t end) const {
  DR_STATE(0 <= begin && begin <= end && end <= dim(0))
      << "rows [" << begin << ", " << end << ") of " << shape_.str();
  std::array<std::int64_t, Shape::kMaxRank> dims{};
  for (int i = 0; i < shape_.rank(); ++i) dims[i] = shape_[i];
  const std::int64_t stride = dim(0) ? numel() / dim(0) : 0;
  dims[0] = end - begin;
  return Tensor(buffer_, data_ + static_cast<std::size_t>(begin * stride) * size_of(dtype_), dtype_,
                Shape(std::span<const std::int64_t>(dims.data(), shape_.rank())));
}

Tensor Tensor::view(Shape shape) const {
  DR_STATE(shape.numel() == numel()) << "view " << shape.str() << " of " << shape_.str();
  return Tensor(buffer_, data_, dtype_, shape);
}

}  // namespace dream_r
