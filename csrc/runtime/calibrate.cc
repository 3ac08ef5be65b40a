#include "runtime/calibrate.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <numeric>
#include <thread>

#include "model/graphs.h"

namespace dream_r {

namespace {

constexpr int kStep = 16;         // tokens of a typical step
constexpr int kTokens = 4;        // forwards of one token in a sample
constexpr int kContext = 400;     // tokens read before: a picture and half a chain of thought
constexpr double kBudget = 0.05;  // seconds a measurement may take, once it has one sample

double seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

template <class Sample>
double median_of(Sample sample) {
  std::vector<double> values;
  const double until = seconds() + kBudget;
  while (values.size() < 32 && (values.empty() || seconds() < until)) values.push_back(sample());
  std::nth_element(values.begin(), values.begin() + values.size() / 2, values.end());
  return values[values.size() / 2];
}

// Median of the ratio of two times taken in turn: on a shared machine, whose speed changes from
// moment to moment, both have then met the same.
template <class A, class B>
double ratio(A a, B b) {
  a(), b();
  return median_of([&] { return a() / b(); });
}

// One model with a small cache of its own, for judging up to two steps by a question of up to
// `most` tokens, and for forwards of as many and two steps: nonsense at realistic cost.
class Bench {
 public:
  Bench(const Model& model, int threads, bool graphs, int most)
      : model_(model),
        stream_(Stream::on(model.device(), threads, 0)),
        arena_(model.device()),
        blocks_((kContext + 2 * kStep + most) / KvStore::kBlock + 1),
        scratch_(most / KvStore::kBlock + 1),
        kv_(model.kv_shape(), blocks_ + 2 * scratch_, model.device()),
        keywords_(model.keyword_head(std::array<std::int32_t, 2>{0, 1})),
        table_(static_cast<std::size_t>(kv_.blocks())),
        tokens_(2 * kStep + most, 1),
        positions_(tokens_.size()),
        with_graphs_(graphs) {
    std::iota(table_.begin(), table_.end(), 0);
    for (std::int32_t i = 0; i < std::ssize(positions_); ++i)
      positions_[i] = {kContext + i, kContext + i, kContext + i};
  }
  // `tokens` of one sequence.
  double forward(int tokens) {
    Batch batch;
    batch.rows.push_back(row(tokens, {}, {table_.data(), kContext}));
    batch.wanted.push_back({0, tokens - 1, false});
    return time(batch);
  }
  // As the verifier does (verifier.cc): the steps in a row, behind each the question.
  double judge(int steps, int question) {
    Batch batch;
    batch.rows.push_back(row(steps * kStep, {}, {table_.data(), kContext}));
    for (int i = 0; i < steps; ++i) {
      const std::int32_t end = (i + 1) * kStep;
      const std::int32_t* const scratch = table_.data() + blocks_ + i * scratch_;
      batch.rows.push_back(row(question, {table_.data(), kContext + end}, {scratch, 0}));
      batch.wanted.push_back({0, end - 1, false});
      batch.wanted.push_back({i + 1, question - 1, true});
    }
    return time(batch);
  }
  // Median seconds of a forward; a warm-up, then as many as the budget allows.
  double median(int tokens) {
    forward(tokens);
    return median_of([&] { return forward(tokens); });
  }
  // Mean seconds of a token over a few.
  double token() {
    double sum = 0;
    for (int i = 0; i < kTokens; ++i) sum += forward(1);
    return sum / kTokens;
  }
  void limit(int threads) { stream_.limit(std::min(threads, stream_.threads())); }

 private:
  BatchRow row(int tokens, KvSpan prefix, KvSpan own) const {
    BatchRow r;
    r.tokens = std::span(tokens_).first(tokens);
    r.positions = std::span(positions_).first(tokens);
    r.prefix = prefix;
    r.own = own;
    return r;
  }
  double time(const Batch& batch) {
    const double begin = seconds();
    model_.forward(stream_, arena_, kv_, batch, keywords_, with_graphs_ ? &graphs_ : nullptr);
    stream_.wait();
    return seconds() - begin;
  }

  const Model& model_;
  Stream stream_;
  Arena arena_;
  const std::int32_t blocks_, scratch_;  // of the sequence, and of a question
  KvStore kv_;
  LinearWeight keywords_;
  std::vector<std::int32_t> table_, tokens_;
  std::vector<Position> positions_;
  bool with_graphs_;
  Graphs graphs_;
};

// `measure` while `beside` runs again and again on another thread.
template <class Measure, class Beside>
double together(Measure measure, Beside beside) {
  std::atomic<bool> stop{false};
  std::thread other([&] {
    while (!stop.load(std::memory_order_relaxed)) beside();
  });
  const double t = measure();
  stop = true;
  other.join();
  return t;
}

// r_D and r_T of a step: what drafting and judging it cost while the target writes its own step on
// the same lane as the verdict, and how far that own step gets meanwhile, both against running
// alone.
void beside_one_another(Bench& target, Bench& draft, double draft_token, double target_token,
                        double verify, int rows, Speeds& s) {
  const double draft_beside = together([&] { return draft.median(1); }, [&] { target.forward(1); });
  const double target_beside =
      together([&] { return target.median(1); }, [&] { draft.forward(1); });
  const double fused = target.median(rows + 1);  // nearly: as many tokens, of one sequence
  // A verdict waits for the pass that is running, half of one on average, then shares its own.
  const double span = kStep * draft_beside + target_beside / 2 + std::max(verify, fused);
  const double alone = kStep * draft_token + verify;
  const double written = kStep * draft_beside / target_beside + 1;  // tokens of the own step
  s.relative_draft = std::min(1.0, alone / span);
  s.relative_target = std::min(1.0, written * target_token / span);
}

}  // namespace

Speeds calibrate(const Model& target, const Model& draft, int question,
                 const EngineOptions& options) {
  Speeds s;
  s.draft = static_cast<double>(draft.weight_bytes()) /
            static_cast<double>(std::max<std::size_t>(1, target.weight_bytes()));
  s.verify = 3.0 / kStep;  // nominal: one pass over the weights and its rows, against kStep passes
  if (options.inline_mode) return s;
  Bench t(target, options.target_threads, options.cuda_graphs, question);
  Bench d(draft, options.draft_threads, options.cuda_graphs, 1);
  const auto target_step = [&] { return kStep * t.token(); };
  const double drafted = ratio([&] { return kStep * d.token(); }, target_step);
  const auto judge = [&](int steps) {
    return [&t, steps, question] { return t.judge(steps, question); };
  };
  const double judged = ratio(judge(1), target_step);
  s.verify_more = ratio(judge(2), judge(1)) - 1;
  if (options.race == Race::first) s.draft = drafted, s.verify = judged;
  const double token = t.median(1);
  // Side by side the target keeps the cores that the draft leaves it.
  t.limit(std::max(1, options.target_threads - options.draft_threads));
  beside_one_another(t, d, drafted * token, token, judged * kStep * token, kStep + question, s);
  return s;
}

}  // namespace dream_r
