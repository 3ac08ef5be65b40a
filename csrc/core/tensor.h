#pragma once
// A Tensor is a contiguous view: dtype + shape over memory kept alive by a shared Buffer, on the
// device that the Buffer names. It does no arithmetic and no allocation (Tensor::empty is the one
// place that makes a Buffer). Elements of a tensor on a CUDA device are for kernels alone.
#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <span>
#include <string>

#include "core/check.h"
#include "core/device.h"
#include "core/dtype.h"

namespace dream_r {

// Owner of a piece of memory; `keep` is whatever must live as long (a file mapping, a numpy array).
class Buffer {
 public:
  // 64-byte aligned, uninitialised.
  static std::shared_ptr<Buffer> allocate(std::size_t bytes, Device device = {});
  // Host memory owned elsewhere, alive while `keep` is.
  static std::shared_ptr<Buffer> borrow(void* data, std::size_t bytes, std::shared_ptr<void> keep);
  std::byte* data() const { return data_; }
  std::size_t bytes() const { return bytes_; }
  Device device() const { return device_; }

  Buffer(std::byte* data, std::size_t bytes, std::shared_ptr<void> keep, Device device = {})
      : data_(data), bytes_(bytes), keep_(std::move(keep)), device_(device) {}

 private:
  std::byte* data_;
  std::size_t bytes_;
  std::shared_ptr<void> keep_;
  Device device_;
};

class Shape {
 public:
  static constexpr int kMaxRank = 5;
  Shape() = default;
  Shape(std::initializer_list<std::int64_t> dims);
  explicit Shape(std::span<const std::int64_t> dims);
  int rank() const { return rank_; }
  std::int64_t operator[](int i) const { return dims_[i < 0 ? i + rank_ : i]; }
  std::int64_t numel() const;
  bool operator==(const Shape& o) const {  // every op compares some: not by a call of memcmp
    for (int i = 0; i < kMaxRank; ++i)
      if (dims_[i] != o.dims_[i]) return false;
    return rank_ == o.rank_;
  }
  std::string str() const;

 private:
  std::array<std::int64_t, kMaxRank> dims_{};
  int rank_ = 0;
};

class Tensor {
 public:
  Tensor() = default;
  Tensor(std::shared_ptr<Buffer> buffer, std::byte* data, DType dtype, Shape shape)
      : buffer_(std::move(buffer)), data_(data), dtype_(dtype), shape_(shape) {}
  static Tensor empty(Shape shape, DType dtype, Device device = {});

  bool defined() const { return data_ != nullptr; }
  DType dtype() const { return dtype_; }
  Device device() const { return buffer_ ? buffer_->device() : Device{}; }
  const Shape& shape() const { return shape_; }
  std::int64_t dim(int i) const { return shape_[i]; }
  std::int64_t numel() const { return shape_.numel(); }
  std::size_t nbytes() const { return static_cast<std::size_t>(numel()) * size_of(dtype_); }
  const std::shared_ptr<Buffer>& buffer() const { return buffer_; }

  template <class T>
  T* data() const {
    return reinterpret_cast<T*>(data_);
  }
  float* f32() const {
    DR_STATE(dtype_ == DType::f32) << "tensor is " << name_of(dtype_) << ", f32 wanted";
    return data<float>();
  }
  // Rows [begin, end) of the first dimension.
  Tensor rows(std::int64_t begin, std::int64_t end) const;
  // The same memory in another shape of equal numel.
  Tensor view(Shape shape) const;

 private:
  std::shared_ptr<Buffer> buffer_;
  std::byte* data_ = nullptr;
  DType dtype_ = DType::f32;
  Shape shape_;
};

// Element i of an f32, bf16 or f16 tensor.
inline float float_at(const Tensor& t, std::int64_t i) {
  if (t.dtype() == DType::f32) return t.data<float>()[i];
  if (t.dtype() == DType::f16) return static_cast<float>(t.data<f16>()[i]);
  DR_STATE(t.dtype() == DType::bf16)
      << "a tensor of " << name_of(t.dtype()) << " has no float elements";
  return static_cast<float>(t.data<bf16>()[i]);
}

}  // namespace dream_r
