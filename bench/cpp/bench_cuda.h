#pragma once
// Harness of the GPU micro-benchmarks: each repeat is timed by events, with the second-level cache
// overwritten before it; medians with their range; the rate of a plain device copy is measured in
// the same run, before every group, and each case's bytes are given as a share of it. An event pair
// round nothing costs a few microseconds, which are printed and not taken off.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "bench.h"
#include "core/check.h"
#include "core/stream.h"

namespace dream_r::bench {

inline void gpu_check(cudaError_t status, const char* what) {
  DR_STATE(status == cudaSuccess) << what << ": " << cudaGetErrorString(status);
}

template <class T>
class DeviceArray {
 public:
  explicit DeviceArray(std::size_t n) : n_(n) {
    void* p = nullptr;
    gpu_check(cudaMalloc(&p, std::max<std::size_t>(n, 1) * sizeof(T)), "device memory");
    data_.reset(static_cast<T*>(p));
  }
  explicit DeviceArray(const std::vector<T>& v) : DeviceArray(v.size()) {
    gpu_check(cudaMemcpy(data(), v.data(), n_ * sizeof(T), cudaMemcpyHostToDevice), "upload");
  }
  // `pattern` again and again.
  DeviceArray(std::size_t n, const std::vector<T>& pattern) : DeviceArray(n) {
    const DeviceArray once(pattern);
    for (std::size_t i = 0; i < n; i += pattern.size())
      gpu_check(cudaMemcpy(data() + i, once.data(), std::min(pattern.size(), n - i) * sizeof(T),
                           cudaMemcpyDeviceToDevice),
                "fill");
  }
  T* data() const { return data_.get(); }
  std::size_t bytes() const { return n_ * sizeof(T); }

 private:
  struct Free {
    void operator()(T* p) const { cudaFree(p); }
  };
  std::size_t n_;
  std::unique_ptr<T, Free> data_;
};

// Values in [-1, 1), so that no product overflows and no branch is special.
inline std::vector<float> random_floats(std::size_t n) {
  std::mt19937 engine(1);
  std::uniform_real_distribution<float> uniform(-1.0f, 1.0f);
  std::vector<float> v(n);
  for (float& x : v) x = uniform(engine);
  return v;
}
inline std::vector<std::uint16_t> random_bf16(std::size_t n) {
  std::vector<std::uint16_t> v;
  for (const float x : random_floats(n)) v.push_back(bf16(x).bits);
  return v;
}

class GpuReport {
 public:
  explicit GpuReport(const Options& o) : options_(o) {
    cudaDeviceProp p{};
    gpu_check(cudaGetDeviceProperties(&p, 0), "device 0");
    gpu_check(cudaEventCreate(&begin_), "event");
    gpu_check(cudaEventCreate(&end_), "event");
    multiprocessors_ = p.multiProcessorCount;
    flush_ = std::make_unique<DeviceArray<char>>(4 * static_cast<std::size_t>(p.l2CacheSize));
    name_ = p.name;
    std::printf("%s, %d multiprocessors, L2 %d MiB; %d repeats; empty event pair %.2f us\n", p.name,
                multiprocessors_, p.l2CacheSize >> 20, repeats(), time([] {}).median * 1e6);
  }
  ~GpuReport() {
    cudaEventDestroy(begin_);
    cudaEventDestroy(end_);
  }
  GpuReport(const GpuReport&) = delete;
  GpuReport& operator=(const GpuReport&) = delete;

  Stream& stream() { return stream_; }
  int multiprocessors() const { return multiprocessors_; }
  bool wants(const std::string& name) const { return name.find(options_.filter) != name.npos; }

  // Starts a group of cases.
  void calibrate(const std::string& title) {
    constexpr std::size_t kBytes = std::size_t{1} << 30;
    const DeviceArray<char> from(kBytes), to(kBytes);
    const Time t = time([&] {
      gpu_check(
          cudaMemcpyAsync(to.data(), from.data(), kBytes, cudaMemcpyDeviceToDevice, stream_.cuda()),
          "copy");
    });
    copy_ = 2.0 * kBytes / t.median;
    std::printf("\n%s: copy %.0f GB/s\n%-44s %10s %19s %10s %8s %6s %8s\n", title.c_str(),
                copy_ / 1e9, "case", "us", "min..max", "MB", "GB/s", "copy", "TFLOP/s");
  }

  // Where it is wanted. `bytes`: the least the case must move; `flops` of its products.
  void add(const std::string& name, double bytes, double flops, const std::function<void()>& f) {
    if (!wants(name)) return;
    const Time t = time(f);
    std::printf("%-44s %10.2f %9.2f..%8.2f %10.2f %8.0f %5.0f%% %8.1f\n", name.c_str(),
                t.median * 1e6, t.least * 1e6, t.most * 1e6, bytes / 1e6, bytes / t.median / 1e9,
                100 * bytes / t.median / copy_, flops / t.median / 1e12);
    std::fflush(stdout);
    rows_.push_back({name, t, bytes, flops, copy_});
    write();
  }

  // A figure that is no case.
  void note(const std::string& name, double value, const char* unit) {
    std::printf("%s: %.3f %s\n", name.c_str(), value, unit);
    std::fflush(stdout);
    notes_.push_back({name, unit, value});
    write();
  }

 private:
  struct Note {
    std::string name, unit;
    double value;
  };
  struct Case {
    std::string name;
    Time time;
    double bytes, flops, copy;
  };

  // After every case: a run that is stopped has measured what it has.
  void write() const {
    if (options_.json.empty()) return;
    const std::unique_ptr<std::FILE, int (*)(std::FILE*)> f(std::fopen(options_.json.c_str(), "w"),
                                                            &std::fclose);
    DR_CHECK(f != nullptr) << "cannot write " << options_.json;
    std::fprintf(f.get(), "{\"gpu\": \"%s\", \"cases\": [", name_.c_str());
    for (std::size_t i = 0; i < rows_.size(); ++i) {
      const Case& r = rows_[i];
      std::fprintf(f.get(),
                   "%s\n  {\"name\": \"%s\", \"us\": %.3f, \"us_min\": %.3f, \"us_max\": %.3f, "
                   "\"bytes\": %.0f, \"flops\": %.0f, \"copy_bytes_per_s\": %.0f}",
                   i ? "," : "", r.name.c_str(), r.time.median * 1e6, r.time.least * 1e6,
                   r.time.most * 1e6, r.bytes, r.flops, r.copy);
    }
    std::fprintf(f.get(), "\n], \"notes\": [");
    for (std::size_t i = 0; i < notes_.size(); ++i)
      std::fprintf(f.get(), "%s\n  {\"name\": \"%s\", \"value\": %.6g, \"unit\": \"%s\"}",
                   i ? "," : "", notes_[i].name.c_str(), notes_[i].value, notes_[i].unit.c_str());
    std::fprintf(f.get(), "\n]}\n");
  }

  int repeats() const { return std::max(options_.repeats, 21); }

  Time time(const std::function<void()>& f) {
    std::vector<double> t;
    for (int r = -3; r < repeats(); ++r) {  // three to warm up
      gpu_check(cudaMemsetAsync(flush_->data(), r & 0xff, flush_->bytes(), stream_.cuda()),
                "flush");
      gpu_check(cudaEventRecord(begin_, stream_.cuda()), "event");
      f();
      gpu_check(cudaEventRecord(end_, stream_.cuda()), "event");
      gpu_check(cudaEventSynchronize(end_), "a case");
      float ms = 0;
      gpu_check(cudaEventElapsedTime(&ms, begin_, end_), "event");
      if (r >= 0) t.push_back(ms * 1e-3);
    }
    std::sort(t.begin(), t.end());
    return {t[t.size() / 2], t.front(), t.back()};
  }

  Options options_;
  std::string name_;
  Stream stream_{cuda_device()};
  cudaEvent_t begin_ = nullptr, end_ = nullptr;
  std::unique_ptr<DeviceArray<char>> flush_;
  int multiprocessors_ = 0;
  double copy_ = 0;
  std::vector<Case> rows_;
  std::vector<Note> notes_;
};

}  // namespace dream_r::bench
