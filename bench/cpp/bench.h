#pragma once
// Micro-benchmark harness: medians of repeats with their range, what this machine can do measured
// in the same run (read and copy rate beyond the caches, multiply-add rate in registers), a table
// on standard output and `--json PATH`.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "core/stream.h"
#include "core/tensor.h"
#include "ops/cpu/kernels.h"
#include "ops/ops.h"

namespace dream_r::bench {

struct Options {
  int threads = 2;
  int repeats = 7;
  std::string filter;  // only cases whose name contains it
  std::string json;
};

inline Options parse(int argc, char** argv, const char* what) {
  Options o;
  for (int i = 1; i < argc; ++i) {
    const std::string arg = argv[i];
    const auto value = [&]() -> std::string {
      if (i + 1 < argc) return argv[++i];
      std::fprintf(stderr, "%s needs a value\n", arg.c_str());
      std::exit(2);
    };
    if (arg == "--threads") {
      o.threads = std::stoi(value());
    } else if (arg == "--repeats") {
      o.repeats = std::stoi(value());
    } else if (arg == "--filter") {
      o.filter = value();
    } else if (arg == "--json") {
      o.json = value();
    } else {
      std::printf(
          "%s\n\n%s [--threads N] [--repeats N] [--filter TEXT] [--json PATH]\n"
          "DREAM_R_ISA=portable|avx2|avx512|amx names the instruction set.\n",
          what, argv[0]);
      std::exit(arg == "--help" ? 0 : 2);
    }
  }
  return o;
}

struct Time {
  double median, least, most;  // seconds a call
};

// Each repeat calls f often enough to last 20 ms.
inline Time measure(int repeats, const std::function<void()>& f) {
  using Clock = std::chrono::steady_clock;
  const auto seconds = [](Clock::time_point from) {
    return std::chrono::duration<double>(Clock::now() - from).count();
  };
  f();
  auto start = Clock::now();
  f();
  const double once = std::max(seconds(start), 1e-8);
  const int calls = std::max(1, static_cast<int>(0.02 / once));
  std::vector<double> t;
  for (int r = 0; r < repeats; ++r) {
    start = Clock::now();
    for (int i = 0; i < calls; ++i) f();
    t.push_back(seconds(start) / calls);
  }
  std::sort(t.begin(), t.end());
  return {t[t.size() / 2], t.front(), t.back()};
}

// What the machine does at this moment; other work on it changes these from minute to minute, so
// they are measured anew before every group of cases.
struct Rates {
  double read = 0, copy = 0;  // bytes/s beyond the caches; a copy counts both directions
  double fma = 0;             // f32 operations/s in registers, two a multiply-add
  double dpbf16 = 0;          // the same with VDPBF16PS, for comparison
};

#if defined(__x86_64__)
// Twelve independent chains in registers; `r` is xmm, ymm or zmm.
#define DR_CHAIN(op, r, i) op " %%" r "14, %%" r "15, %%" r #i "\n"
#define DR_TWELVE(op, r) \
  DR_CHAIN(op, r, 0)     \
  DR_CHAIN(op, r, 1)     \
  DR_CHAIN(op, r, 2)     \
  DR_CHAIN(op, r, 3)     \
  DR_CHAIN(op, r, 4)     \
  DR_CHAIN(op, r, 5)     \
  DR_CHAIN(op, r, 6)     \
  DR_CHAIN(op, r, 7) DR_CHAIN(op, r, 8) DR_CHAIN(op, r, 9) DR_CHAIN(op, r, 10) DR_CHAIN(op, r, 11)
#define DR_LOOP(op, r)                                                                         \
  asm volatile("vxorps %%xmm14, %%xmm14, %%xmm14\nvxorps %%xmm15, %%xmm15, %%xmm15" ::         \
                   : "xmm14", "xmm15");                                                        \
  for (int i = 0; i < n; ++i)                                                                  \
    asm volatile(DR_TWELVE(op, r)::                                                            \
                     : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", \
                       "xmm9", "xmm10", "xmm11");                                              \
  return 0
__attribute__((target("fma"))) inline float fma256_loop(int n) { DR_LOOP("vfmadd231ps", "ymm"); }
__attribute__((target("avx512f"))) inline float fma512_loop(int n) {
  DR_LOOP("vfmadd231ps", "zmm");
}
__attribute__((target("avx512f"))) inline float dpbf16_loop(int n) { DR_LOOP("vdpbf16ps", "zmm"); }
#undef DR_LOOP
#undef DR_CHAIN
#undef DR_TWELVE
#endif

class Machine {
 public:
  explicit Machine(Stream& s) : stream_(s), memory_(Tensor::empty({kFloats}, DType::f32)) {
    std::memset(memory_.data<char>(), 0, memory_.nbytes());
  }

  Rates measure_rates(int repeats) {
    Rates r;
    const int parts = stream_.threads();
    const auto bytes = static_cast<double>(memory_.nbytes());
    const auto& kernel = cpu::kernels();
    r.read = bytes / each_member(repeats, [&](auto i) {
               return kernel.max(memory_.f32() + kFloats / parts * i, kFloats / parts);
             });
    r.copy = bytes / each_member(repeats, [&](auto i) {
               float* to = memory_.f32() + kFloats / parts / 2 * i;
               std::memcpy(to, to + kFloats / 2, static_cast<std::size_t>(kFloats / parts / 2) * 4);
               return 0.0f;
             });
#if defined(__x86_64__)
    constexpr int kLoops = 1 << 14;
    const double ops = 12.0 * kLoops * parts;
    if (__builtin_cpu_supports("avx512f"))
      r.fma = 32 * ops / each_member(repeats, [](auto) { return fma512_loop(kLoops); });
    else if (__builtin_cpu_supports("fma"))
      r.fma = 16 * ops / each_member(repeats, [](auto) { return fma256_loop(kLoops); });
    if (__builtin_cpu_supports("avx512bf16"))
      r.dpbf16 = 64 * ops / each_member(repeats, [](auto) { return dpbf16_loop(kLoops); });
#endif
    return r;
  }

 private:
  static constexpr std::int64_t kFloats = std::int64_t{1} << 28;  // 1 GiB

  // Median seconds of f(member) on all members at once.
  template <class F>
  double each_member(int repeats, F&& f) {
    return measure(repeats,
                   [&] {
                     stream_.parallel_for(stream_.threads(), 1, [&](auto begin, auto end) {
                       for (auto i = begin; i < end; ++i) sink_[i % 64] += f(i);
                     });
                   })
        .median;
  }

  Stream& stream_;
  Tensor memory_;
  float sink_[64] = {};
};

struct Row {
  std::string name{};
  Time time{};
  double bytes = 0, flops = 0;  // a call
  double read_share = 0, fma_share = 0;
  Rates rates{};
};

class Report {
 public:
  Report(const Options& o, Stream& s) : options_(o), machine_(s) {
    std::printf("%s, %d threads; `read` and `fma` are shares of the rates measured just before\n",
                cpu_isa(), o.threads);
  }

  // Starts a group of cases.
  void calibrate(const std::string& title) {
    rates_ = machine_.measure_rates(3);
    std::printf("\n%s: read %.1f GB/s, copy %.1f GB/s, FMA %.0f GFLOP/s, VDPBF16PS %.0f GFLOP/s\n",
                title.c_str(), rates_.read / 1e9, rates_.copy / 1e9, rates_.fma / 1e9,
                rates_.dpbf16 / 1e9);
    std::printf("%-36s %11s %21s %8s %6s %9s %6s\n", "case", "us", "min..max", "GB/s", "read",
                "GFLOP/s", "fma");
  }

  bool wants(const std::string& name) const { return name.find(options_.filter) != name.npos; }
  int repeats() const { return options_.repeats; }

  void add(Row r) {
    r.rates = rates_;
    r.read_share = r.bytes / r.time.median / rates_.read;
    r.fma_share = rates_.fma > 0 ? r.flops / r.time.median / rates_.fma : 0;
    std::printf("%-36s %11.2f %10.2f..%9.2f %8.1f %5.0f%% %9.1f %5.0f%%\n", r.name.c_str(),
                r.time.median * 1e6, r.time.least * 1e6, r.time.most * 1e6,
                r.bytes / r.time.median / 1e9, 100 * r.read_share, r.flops / r.time.median / 1e9,
                100 * r.fma_share);
    std::fflush(stdout);
    rows_.push_back(std::move(r));
  }

  void write() const {
    if (options_.json.empty()) return;
    std::FILE* f = std::fopen(options_.json.c_str(), "w");
    if (!f) {
      std::perror(options_.json.c_str());
      std::exit(1);
    }
    std::fprintf(f, "{\"isa\": \"%s\", \"threads\": %d, \"cases\": [", cpu_isa(), options_.threads);
    for (std::size_t i = 0; i < rows_.size(); ++i) {
      const Row& r = rows_[i];
      std::fprintf(f,
                   "%s\n  {\"name\": \"%s\", \"us\": %.3f, \"us_min\": %.3f, \"us_max\": %.3f, "
                   "\"bytes\": %.0f, \"flops\": %.0f, \"read_share\": %.3f, \"fma_share\": %.3f, "
                   "\"read_bytes_per_s\": %.0f, \"copy_bytes_per_s\": %.0f, \"fma_flops\": %.0f}",
                   i ? "," : "", r.name.c_str(), r.time.median * 1e6, r.time.least * 1e6,
                   r.time.most * 1e6, r.bytes, r.flops, r.read_share, r.fma_share, r.rates.read,
                   r.rates.copy, r.rates.fma);
    }
    std::fprintf(f, "\n]}\n");
    std::fclose(f);
  }

 private:
  Options options_;
  Machine machine_;
  Rates rates_;
  std::vector<Row> rows_;
};

inline Tensor random_tensor(Shape shape, DType dtype = DType::f32) {
  Tensor t = Tensor::empty(shape, dtype);
  std::uint32_t state = 12345;
  for (std::int64_t i = 0; i < t.numel(); ++i) {
    state = state * 1664525u + 1013904223u;
    const float v = static_cast<float>(static_cast<std::int32_t>(state)) * 0x1p-31f;
    if (dtype == DType::i32) {
      t.data<std::uint32_t>()[i] = state;
    } else if (dtype == DType::f32) {
      t.data<float>()[i] = v;
    } else {
      t.data<bf16>()[i] = bf16(v);
    }
  }
  return t;
}

inline Tensor copy_of(const Tensor& t) {
  Tensor c = Tensor::empty(t.shape(), t.dtype());
  std::memcpy(c.data<char>(), t.data<char>(), t.nbytes());
  return c;
}

}  // namespace dream_r::bench
