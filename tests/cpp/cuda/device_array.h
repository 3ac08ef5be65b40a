#pragma once
// Arrays in the emulated device's memory, a stream, and what a failed launch says.
#include <cuda_runtime.h>

#include <string>
#include <vector>

#include "core/check.h"
#include "doctest.h"
#include "ops/cuda/launch.cuh"

namespace dream_r::test {

class TestStream {
 public:
  TestStream() {
    cuda::check(cudaStreamCreateWithPriority(&stream_, cudaStreamNonBlocking, 0), "stream");
  }
  ~TestStream() { cudaStreamDestroy(stream_); }
  TestStream(const TestStream&) = delete;
  TestStream& operator=(const TestStream&) = delete;
  operator cudaStream_t() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

template <class T>
class DeviceArray {
 public:
  explicit DeviceArray(std::size_t n) : n_(n) {
    cuda::check(cudaMalloc(reinterpret_cast<void**>(&data_), n * sizeof(T)), "array");
  }
  DeviceArray(cudaStream_t s, const std::vector<T>& v) : DeviceArray(v.size()) {
    cuda::check(cudaMemcpyAsync(data_, v.data(), n_ * sizeof(T), cudaMemcpyHostToDevice, s), "up");
  }
  ~DeviceArray() { CHECK(cudaFree(data_) == cudaSuccess); }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;
  T* data() const { return data_; }
  std::vector<T> host(cudaStream_t s) const {
    std::vector<T> v(n_);
    cuda::check(cudaMemcpyAsync(v.data(), data_, n_ * sizeof(T), cudaMemcpyDeviceToHost, s),
                "down");
    cuda::check(cudaStreamSynchronize(s), "wait");
    return v;
  }

 private:
  T* data_ = nullptr;
  std::size_t n_;
};

template <class F>
std::string failure(F&& f) {
  try {
    f();
  } catch (const Error& e) {
    return e.what();
  }
  return "";
}

inline bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

}  // namespace dream_r::test
