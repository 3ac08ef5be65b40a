// Linear layers of real models on a CUDA device: time of one call by events, with the second-level
// cache flushed before each, medians. Every line says the bytes of the weights, GB/s, and the share
// of the rate at which this run copied device memory (bytes read and written together).
#include <cuda_runtime_api.h>

#include <thread>

#include "bench.h"
#include "ops/cuda/launch.cuh"
#include "quant/w4.h"

using namespace dream_r;
using namespace dream_r::bench;

namespace {

struct Matrix {
  const char* name;
  std::int64_t n, k;
};
const Matrix kMatrices[] = {
    {"32B qkv", 10240, 5120},     {"32B o", 5120, 8192},         {"32B gate_up", 51200, 5120},
    {"32B down", 5120, 25600},    {"32B lm_head", 151936, 5120}, {"2B qkv", 4096, 2048},
    {"2B o", 2048, 2048},         {"2B gate_up", 12288, 2048},   {"2B down", 2048, 6144},
    {"2B lm_head", 151936, 2048},
};
constexpr int kRows[] = {1, 2, 4, 8, 16, 32, 64, 150, 256, 600, 2048};
constexpr std::int64_t kGroup = 128;

class Event {
 public:
  Event() { cuda::check(cudaEventCreate(&event_), "event"); }
  ~Event() { cudaEventDestroy(event_); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  void record(cudaStream_t s) { cuda::check(cudaEventRecord(event_, s), "event"); }
  // Seconds from `from` to this one.
  double since(const Event& from) const {
    cuda::check(cudaEventSynchronize(event_), "event");
    float ms = 0;
    cuda::check(cudaEventElapsedTime(&ms, from.event_, event_), "event");
    return 1e-3 * ms;
  }

 private:
  cudaEvent_t event_ = nullptr;
};

class Timer {
 public:
  explicit Timer(Stream& s) : stream_(s) {}

  // Each repeat writes more than the cache holds, then calls f.
  template <class F>
  Time measure(int repeats, F&& f) {
    std::vector<double> seconds;
    for (int i = 0; i <= repeats; ++i) {
      cuda::check(cudaMemsetAsync(flush_.data<void>(), i, flush_.nbytes(), stream_.cuda()),
                  "flush");
      begin_.record(stream_.cuda());
      f();
      end_.record(stream_.cuda());
      if (i > 0) seconds.push_back(end_.since(begin_));  // the first call warms up
    }
    std::sort(seconds.begin(), seconds.end());
    return {seconds[seconds.size() / 2], seconds.front(), seconds.back()};
  }

  // Bytes a second of a copy inside device memory, read and written.
  double copy_rate(int repeats) {
    const Tensor from = flush_, to = Tensor::empty(from.shape(), from.dtype(), from.device());
    const Time t = measure(repeats, [&] { ops::copy(stream_, from, to); });
    return 2.0 * static_cast<double>(from.nbytes()) / t.median;
  }

 private:
  static constexpr std::int64_t kFlush = std::int64_t{512} << 20;
  Stream& stream_;
  Tensor flush_ = Tensor::empty({kFlush}, DType::u8, stream_.device());
  Event begin_, end_;
};

// Any bits do for q and z; scales are sane numbers, so that no product is slow or infinite.
LinearWeight make_weight(Stream& s, const Matrix& m, WeightFormat format) {
  Stream host(static_cast<int>(std::thread::hardware_concurrency()));
  if (format == WeightFormat::bf16) {
    const Tensor source = random_tensor({m.n, m.k}, DType::bf16);
    return copy_to(s, pack_linear(host, std::span(&source, 1), format), s.device());
  }
  quant::W4Matrix q{m.name, quant::W4Layout::pack_quantized, m.n, m.k, kGroup, {}, {}, {}};
  q.words = random_tensor({m.n, m.k / 8}, DType::i32);
  q.scales = random_tensor({m.n, m.k / kGroup}, DType::bf16);
  return copy_to(s, quant::pack_w4(host, std::span(&q, 1)), s.device());
}

void run(const Options& o, Stream& s, Timer& timer, const Matrix& m, WeightFormat format,
         std::FILE* json) {
  const std::string kind = format == WeightFormat::w4 ? " w4" : " bf16";
  if ((m.name + kind).find(o.filter) == std::string::npos) return;
  const LinearWeight w = make_weight(s, m, format);
  const double rate = timer.copy_rate(o.repeats);
  for (const int rows : kRows) {
    const Tensor x = ops::copy_to(s, random_tensor({rows, m.k}), s.device());
    const Tensor out = Tensor::empty({rows, m.n}, DType::f32, s.device());
    const Time t = timer.measure(o.repeats, [&] { ops::linear(s, x, w, out); });
    const double bytes = static_cast<double>(w.nbytes());
    const double flops = 2.0 * rows * static_cast<double>(m.n * m.k);
    std::printf(
        "%-18s M=%-5d %9.2f us (%8.2f..%8.2f) %8.1f MB %8.1f GB/s %5.2f of copy %8.1f "
        "TFLOP/s\n",
        (m.name + kind).c_str(), rows, 1e6 * t.median, 1e6 * t.least, 1e6 * t.most, bytes / 1e6,
        bytes / t.median / 1e9, bytes / t.median / rate, flops / t.median / 1e12);
    std::fflush(stdout);
    if (json)
      std::fprintf(json,
                   "{\"name\": \"%s\", \"rows\": %d, \"us\": %.3f, \"us_min\": %.3f, \"us_max\": "
                   "%.3f, \"bytes\": %.0f, \"flops\": %.0f, \"copy_bytes_per_s\": %.0f}\n",
                   (m.name + kind).c_str(), rows, 1e6 * t.median, 1e6 * t.least, 1e6 * t.most,
                   bytes, flops, rate);
  }
}

}  // namespace

int main(int argc, char** argv) {
  const Options o = parse(argc, argv, "Linear layers on the first CUDA device");
  try {
    Stream s(cuda_device());
    Timer timer(s);
    std::FILE* const json = o.json.empty() ? nullptr : std::fopen(o.json.c_str(), "w");
    for (const Matrix& m : kMatrices)
      for (const auto format : {WeightFormat::w4, WeightFormat::bf16})
        run(o, s, timer, m, format, json);
    if (json) std::fclose(json);
  } catch (const Error& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 1;
  }
  return 0;
}
