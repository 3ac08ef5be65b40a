#include <algorithm>
#include <limits>
#include <numeric>

#include "common.h"
#include "ops/philox.h"

using namespace dream_r;
using namespace dream_r::test;
using ops::SampleKey;
using ops::SamplingParams;

namespace {

const double kMinusInf = -std::numeric_limits<double>::infinity();

// The processors of transformers' generate, one by one over the whole row; the kept probabilities.
std::vector<double> oracle(std::vector<float> logits, const SamplingParams& p,
                           const std::vector<std::int32_t>& seen,
                           const std::vector<std::int32_t>& suppressed) {
  auto unique = seen;
  std::sort(unique.begin(), unique.end());
  unique.erase(std::unique(unique.begin(), unique.end()), unique.end());
  for (const int id : unique) {
    float& x = logits[id];
    x = x > 0 ? x / p.repetition_penalty : x * p.repetition_penalty;
    x -= p.presence_penalty;
  }
  std::vector<double> x;
  for (const float v : logits) x.push_back(std::isnan(v) ? kMinusInf : static_cast<double>(v));
  for (const int id : suppressed) x[id] = kMinusInf;
  for (auto& v : x) v = static_cast<float>(v / p.temperature);
  const auto n = x.size();
  if (p.top_k > 0 && static_cast<std::size_t>(p.top_k) < n) {
    auto sorted = x;
    std::sort(sorted.begin(), sorted.end(), std::greater<>());
    for (auto& v : x)
      if (v < sorted[p.top_k - 1]) v = kMinusInf;
  }
  const auto softmax = [&] {
    const double m = *std::max_element(x.begin(), x.end());
    std::vector<double> q;
    for (const double v : x) q.push_back(std::exp(v - m));
    const double z = std::accumulate(q.begin(), q.end(), 0.0);
    for (auto& v : q) v /= z;
    return q;
  };
  if (p.top_p < 1) {
    std::vector<int> order(n);
    std::iota(order.begin(), order.end(), 0);
    std::sort(order.begin(), order.end(),  // ascending; among equals the lowest id is the largest
              [&](int a, int b) { return x[a] < x[b] || (x[a] == x[b] && a > b); });
    const auto q = softmax();
    double cumulative = 0;
    for (std::size_t i = 0; i + 1 < n; ++i) {
      cumulative += q[order[i]];
      if (cumulative <= 1 - p.top_p) x[order[i]] = kMinusInf;
    }
  }
  if (p.min_p > 0) {
    const auto q = softmax();
    const double most = *std::max_element(q.begin(), q.end());
    for (std::size_t i = 0; i < n; ++i)
      if (q[i] < p.min_p * most) x[i] = kMinusInf;
  }
  return softmax();
}

std::vector<float> random_logits(Random& r, int n, float scale) {
  std::vector<float> v;
  for (int i = 0; i < n; ++i) v.push_back(scale * r.normal());
  return v;
}

// One token by the stream's device.
int draw(Stream& s, const std::vector<float>& logits, const SamplingParams& params,
         const std::vector<std::int32_t>& seen, const std::vector<std::int32_t>& suppressed,
         const SampleKey& key) {
  Tensor row = filled({1, static_cast<std::int64_t>(logits.size())}, 0);
  std::copy(logits.begin(), logits.end(), row.f32());
  const ops::SampleRow how{params, seen, suppressed, key};
  std::int32_t id = -1;
  ops::sample_rows(s, ops::copy_to(s, row, s.device()), std::span(&how, 1), std::span(&id, 1));
  return id;
}

const SamplingParams kFilters[] = {
    {.temperature = 1.0f},
    {.temperature = 0.6f, .top_k = 20, .top_p = 0.95f},
    {.temperature = 0.7f, .top_k = 7},
    {.temperature = 1.3f, .top_p = 0.5f},
    {.temperature = 1.0f, .top_p = 0.999f},
    {.temperature = 1.0f, .min_p = 0.2f},
    {.temperature = 0.8f,
     .top_k = 50,
     .top_p = 0.8f,
     .min_p = 0.1f,
     .repetition_penalty = 1.3f,
     .presence_penalty = 0.5f},
    {.temperature = 1.0f, .top_p = 0.0f},
    {.temperature = 2.0f, .top_k = 1500},
    {.temperature = 2.0f, .top_p = 0.9999f, .min_p = 1e-6f},
};

}  // namespace

TEST_CASE("Philox4x32-10 gives the published vectors") {
  using Block = std::array<std::uint32_t, 4>;
  CHECK(ops::philox4x32({0, 0, 0, 0}, {0, 0}) ==
        Block{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
  CHECK(
      ops::philox4x32({0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, {0xffffffff, 0xffffffff}) ==
      Block{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
  CHECK(
      ops::philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}) ==
      Block{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});
}

TEST_CASE("uniform depends on every part of the key") {
  const SampleKey base{1, 2, 3, 0, 5};
  const float u = ops::uniform(base);
  CHECK(u == ops::uniform(base));
  for (const auto& other :
       {SampleKey{2, 2, 3, 0, 5}, SampleKey{1, 3, 3, 0, 5}, SampleKey{1, 2, 4, 0, 5},
        SampleKey{1, 2, 3, 1, 5}, SampleKey{1, 2, 3, 0, 6}, SampleKey{1 + (1ull << 32), 2, 3, 0, 5},
        SampleKey{1, 2 + (1ull << 32), 3, 0, 5}})
    CHECK(ops::uniform(other) != u);
  double sum = 0, squares = 0;
  for (std::uint32_t t = 0; t < 20000; ++t) {
    const double v = ops::uniform({.seed = 9, .token = t});
    CHECK_UNARY(v >= 0 && v < 1);
    sum += v / 20000;
    squares += v * v / 20000;
  }
  CHECK(std::abs(sum - 0.5) < 0.01);
  CHECK(std::abs(squares - 1.0 / 3) < 0.01);
}

TEST_CASE("greedy takes the lowest id among equals, NaN never wins") {
  each_device([](Stream& s) {
    Random r;
    for (const int n : {1, 5, 64, 300, 1000, 5000}) {
      auto logits = random_logits(r, n, 1.0f);
      const int first = r.below(n), second = r.below(n);
      logits[first] = logits[second] = 9.0f;
      if (n > 2) {
        int hole = r.below(n);
        while (hole == first || hole == second) hole = r.below(n);
        logits[hole] = NAN;
      }
      CHECK(draw(s, logits, {}, {}, {}, {}) == std::min(first, second));
      const std::vector<std::int32_t> stop = {std::min(first, second)};
      if (first != second) CHECK(draw(s, logits, {}, {}, stop, {}) == std::max(first, second));
    }
    std::vector<float> none(20, NAN);
    CHECK(draw(s, none, {}, {}, {}, {}) == 0);
    CHECK(draw(s, none, {.temperature = 1.0f, .top_p = 0.9f}, {}, {}, {}) == 0);
    std::vector<float> pair = {1.0f, 3.0f};
    const std::vector<std::int32_t> seen = {1, 1};
    CHECK(draw(s, pair, {.repetition_penalty = 4.0f}, seen, {}, {}) == 0);
  });
}

TEST_CASE("each draw is the inverse CDF of the processors' distribution") {
  each_device([](Stream& s) {
    const std::uint32_t draws = s.device().on_cuda() ? 12 : 60;  // an emulated one takes its time
    Random r;
    for (const auto& params : kFilters)
      for (const int n : {3, 40, 600, 3000}) {
        auto logits = random_logits(r, n, 2.5f);
        if (n > 10) logits[4] = NAN, logits[5] = logits[6];  // a tie
        std::vector<std::int32_t> seen, suppressed = {n - 1};
        for (int i = 0; i < 5; ++i) seen.push_back(r.below(n)), seen.push_back(seen[0]);
        const auto want = oracle(logits, params, seen, suppressed);
        for (std::uint32_t t = 0; t < draws; ++t) {
          const SampleKey key{.seed = 3, .token = t};
          const int id = draw(s, logits, params, seen, suppressed, key);
          const double u = ops::uniform(key);
          const double below = std::accumulate(want.begin(), want.begin() + id, 0.0);
          CAPTURE(n);
          CAPTURE(t);
          CHECK(want[id] > 0);
          CHECK(u > below - 1e-6);  // the edges may round either way
          CHECK(u < below + want[id] + 1e-6);
        }
      }
  });
}

TEST_CASE("frequencies follow the distribution") {
  Random r(4);
  const int n = 400, draws = 40000;
  const auto logits = random_logits(r, n, 1.5f);
  for (const auto& params : kFilters) {
    const auto want = oracle(logits, params, {}, {});
    std::vector<int> count(n, 0);
    std::vector<float> row;
    for (std::uint32_t t = 0; t < draws; ++t) {
      row = logits;
      ++count[ops::sample(row, params, {}, {}, {.seed = 11, .request = 5, .token = t})];
    }
    // Ids expected fewer than 10 times are pooled into one cell.
    double chi = 0, rest_want = 0, rest = 0;
    int cells = 0;
    const auto add = [&](double observed, double expected) {
      chi += (observed - expected) * (observed - expected) / expected;
      ++cells;
    };
    for (int i = 0; i < n; ++i) {
      if (want[i] * draws < 10) {
        rest += count[i], rest_want += want[i] * draws;
      } else {
        add(count[i], want[i] * draws);
      }
    }
    if (rest_want >= 10) add(rest, rest_want);
    if (rest_want < 1e-9) CHECK(rest == 0);
    // Five standard deviations of a chi-square of cells - 1 degrees of freedom.
    CHECK(chi <= cells - 1 + 5 * std::sqrt(2.0 * std::max(1, cells - 1)));
  }
}

TEST_CASE("a draw over a large vocabulary, filtered or not, agrees with the oracle") {
  each_device([](Stream& s) {
    Random r;
    const int n = 151936;
    const auto logits = random_logits(r, n, 3.0f);
    for (const auto& params : {kFilters[0], kFilters[1], kFilters[3]}) {
      const auto want = oracle(logits, params, {}, {});
      for (std::uint32_t t = 0; t < 5; ++t) {
        const SampleKey key{.seed = 8, .token = t};
        const int id = draw(s, logits, params, {}, {}, key);
        const double below = std::accumulate(want.begin(), want.begin() + id, 0.0);
        CHECK(want[id] > 0);
        CHECK(ops::uniform(key) > below - 1e-6);
        CHECK(ops::uniform(key) < below + want[id] + 1e-6);
      }
    }
  });
}

TEST_CASE("rows are sampled each by its own choice, as one by one") {
  each_device([](Stream& s) {
    Random r(7);
    const int n = 2500, rows = static_cast<int>(std::size(kFilters));
    const Tensor logits = r.tensor({rows, n}, 2.0f);
    const std::vector<std::int32_t> seen = {3, 9, 3, 2400}, suppressed = {1, 2499};
    std::vector<ops::SampleRow> how;
    for (int i = 0; i < rows; ++i)
      how.push_back(
          {kFilters[i], seen, suppressed, {.seed = 5, .token = static_cast<unsigned>(i)}});
    std::vector<std::int32_t> got(rows, -1);
    ops::sample_rows(s, ops::copy_to(s, copy(logits), s.device()), how, got);
    for (int i = 0; i < rows; ++i) {
      const std::vector<float> row(logits.f32() + i * n, logits.f32() + (i + 1) * n);
      CHECK(got[i] == draw(s, row, kFilters[i], seen, suppressed, how[i].key));
    }
    const Tensor there = ops::copy_to(s, copy(logits), s.device());
    CHECK(
        rejects("sample_rows", [&] { ops::sample_rows(s, there, how, std::span(got).first(2)); }));
    how[0].params.temperature = -1.0f;
    CHECK(rejects("sample_rows", [&] { ops::sample_rows(s, there, how, got); }));
  });
}

TEST_CASE("log_sum_exp") {
  each_device([](Stream& s) {
    Random r;
    for (const int n : {1, 17, 300, 4096}) {
      Tensor x = r.tensor({3, n}, 5.0f);
      for (int i = 0; i < n; ++i) x.f32()[n + i] += 1000.0f;
      if (n > 1) x.f32()[0] = -std::numeric_limits<float>::infinity(), x.f32()[1] = 0;
      Tensor out = filled({3}, NAN);
      run(s, ops::log_sum_exp, x, out);
      for (int t = 0; t < 3; ++t) {
        const float* row = x.f32() + t * n;
        const double m = *std::max_element(row, row + n);
        double z = 0;
        for (int i = 0; i < n; ++i) z += std::exp(row[i] - m);
        CHECK(out.f32()[t] == doctest::Approx(m + std::log(z)).epsilon(3e-7));
      }
      CHECK(rejects("log_sum_exp", [&] { run(s, ops::log_sum_exp, x, filled({2}, 0)); }));
    }
  });
}

TEST_CASE("sample rejects bad arguments") {
  std::vector<float> row(8, 0.0f);
  const std::vector<std::int32_t> high = {8}, low = {-1};
  const auto fails = [&](const SamplingParams& p) {
    return rejects("sample", [&] { ops::sample(row, p, {}, {}, {}); });
  };
  CHECK(fails({.temperature = -1.0f}));
  CHECK(fails({.top_k = -1}));
  CHECK(fails({.min_p = 2.0f}));
  CHECK(fails({.repetition_penalty = 0.0f}));
  CHECK(rejects("sample", [&] { ops::sample(row, {}, high, {}, {}); }));
  CHECK(rejects("sample", [&] { ops::sample(row, {}, {}, low, {}); }));
  CHECK(rejects("sample", [&] { ops::sample({}, {}, {}, {}, {}); }));
}
