// What a branch of the KV cache costs, by context length: fork, snapshot + rollback, a branch that
// is appended to and dropped, commit, and the block table. Host work only; no KV bytes move here,
// the bytes that copy-on-write would copy are counted.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <utility>
#include <vector>

#include "kv/kv_store.h"
#include "kv/sequence.h"

using namespace dream_r;

namespace {

constexpr int kContexts[] = {1 << 10, 4 << 10, 16 << 10, 64 << 10, 128 << 10};
constexpr int kStep = 37;  // tokens of a reasoning step; not a multiple of the block on purpose
// The KV of an 8B target: 36 layers, 8 heads of 128.
constexpr KvShape kShape{36, 8, 128, DType::bf16};

struct Result {
  std::string name;
  int tokens = 0;
  double median = 0, min = 0, max = 0;  // us
  double copied = 0;                    // bytes an operation
};

class Timer {
 public:
  void start() { begin_ = Clock::now(); }
  void stop() { us_ += std::chrono::duration<double, std::micro>(Clock::now() - begin_).count(); }
  double take() { return std::exchange(us_, 0.0); }

 private:
  using Clock = std::chrono::steady_clock;
  Clock::time_point begin_;
  double us_ = 0;
};

// A context as decoding leaves it: made step by step, with a branch forked and dropped at each.
class Fixture {
 public:
  explicit Fixture(int tokens) : pool(tokens / 16 + 64), main(pool) {
    while (main.length() < tokens) {
      KvSequence snapshot = main.fork();
      append(main, std::min(kStep, tokens - main.length()));
    }
    main.truncate(tokens - 5);  // the last block is partial, the usual case
    copies = 0;
  }

  void append(KvSequence& s, int tokens) {
    const auto plan = s.reserve(tokens);
    if (!plan) std::abort();
    if (plan->src >= 0) ++copies;
    s.advance(tokens);
  }

  BlockPool pool;
  KvSequence main;
  Timer timer;
  std::int64_t copies = 0;
  std::vector<std::int32_t> table;
};

void fork(Fixture& f) {
  f.timer.start();
  {
    KvSequence branch = f.main.fork();
  }
  f.timer.stop();
}

// The step between the snapshot and its rollback is not timed.
void rollback(Fixture& f) {
  const int length = f.main.length();
  f.timer.start();
  KvSequence snapshot = f.main.fork();
  f.timer.stop();
  f.append(f.main, kStep);
  f.timer.start();
  f.main.truncate(length);
  {
    KvSequence gone = std::move(snapshot);
  }
  f.timer.stop();
}

void rollback_by_move(Fixture& f) {
  f.timer.start();
  KvSequence snapshot = f.main.fork();
  f.timer.stop();
  f.append(f.main, kStep);
  f.timer.start();
  f.main = std::move(snapshot);
  f.timer.stop();
}

void branch_and_drop(Fixture& f) {
  f.timer.start();
  {
    KvSequence branch = f.main.fork();
    f.append(branch, kStep);
  }
  f.timer.stop();
}

// Two branches write, one of them wins; the context is cut back outside the timing.
void commit(Fixture& f) {
  const int length = f.main.length();
  f.timer.start();
  {
    KvSequence verify = f.main.fork();
    f.append(verify, kStep);
    f.append(f.main, kStep);
    f.main = std::move(verify);
  }
  f.timer.stop();
  f.main.truncate(length);
}

void table(Fixture& f) {
  f.timer.start();
  f.main.table(f.table);
  f.timer.stop();
}

struct Case {
  const char* name;
  void (*run)(Fixture&);
};
constexpr Case kCases[] = {{"fork", fork},
                           {"fork+truncate", rollback},
                           {"fork+move back", rollback_by_move},
                           {"fork+append+drop", branch_and_drop},
                           {"fork+append x2+commit", commit},
                           {"table", table}};

Result measure(const Case& c, int tokens, int samples) {
  Fixture f(tokens);
  for (int i = 0; i < samples / 10 + 1; ++i) c.run(f);
  f.timer.take();
  f.copies = 0;
  std::vector<double> us;
  for (int i = 0; i < samples; ++i) {
    c.run(f);
    us.push_back(f.timer.take());
  }
  std::sort(us.begin(), us.end());
  const double copies = static_cast<double>(f.copies) / samples;
  return {c.name,     tokens,    us[us.size() / 2],
          us.front(), us.back(), copies * static_cast<double>(kShape.block_bytes())};
}

std::string json(const std::vector<Result>& results) {
  std::string s = "{\"bench\": \"kv\", \"unit\": \"us\", \"results\": [";
  for (const auto& r : results) {
    char line[256];
    std::snprintf(line, sizeof line,
                  "%s\n  {\"name\": \"%s\", \"tokens\": %d, \"median\": %.4f, \"min\": %.4f, "
                  "\"max\": %.4f, \"copied_bytes\": %.0f}",
                  &r == &results.front() ? "" : ",", r.name.c_str(), r.tokens, r.median, r.min,
                  r.max, r.copied);
    s += line;
  }
  return s + "\n]}\n";
}

std::vector<Result> run_all(int samples) {
  std::vector<Result> results;
  std::printf("%-22s %8s %10s %10s %10s %12s\n", "us", "tokens", "median", "min", "max",
              "bytes/op");
  for (const Case& c : kCases) {
    double first = 0;
    for (const int tokens : kContexts) {
      const Result r = measure(c, tokens, samples);
      std::printf("%-22s %8d %10.3f %10.3f %10.3f %12.0f\n", c.name, tokens, r.median, r.min, r.max,
                  r.copied);
      if (tokens == kContexts[0]) first = r.median;
      results.push_back(r);
    }
    std::printf("%-22s 128k/1k = %.2f\n", c.name, results.back().median / first);
  }
  return results;
}

}  // namespace

int main(int argc, char** argv) {
  std::string path;
  int samples = 5000;
  for (int i = 1; i < argc; ++i) {
    const std::string arg = argv[i];
    if (arg == "--json" && i + 1 < argc) {
      path = argv[++i];
    } else if (arg == "--samples" && i + 1 < argc) {
      samples = std::max(1, std::atoi(argv[++i]));
    } else {
      std::printf("usage: bench_kv [--samples N] [--json PATH]\n");
      return arg == "--help" ? 0 : 2;
    }
  }
  const auto results = run_all(samples);
  if (path.empty()) return 0;
  std::FILE* file = std::fopen(path.c_str(), "w");
  if (!file) {
    std::fprintf(stderr, "cannot write %s\n", path.c_str());
    return 1;
  }
  const std::string text = json(results);
  const bool written = std::fwrite(text.data(), 1, text.size(), file) == text.size();
  return std::fclose(file) == 0 && written ? 0 : 1;
}
