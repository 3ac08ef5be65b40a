#include <cmath>
#include <limits>
#include <vector>

#include "ops/checks.h"
#include "ops/cpu/kernels.h"
#include "ops/cuda/kernels.h"
#include "ops/dispatch.h"
#include "ops/ops.h"
#include "ops/philox.h"
#include "ops/sampling.h"

namespace dream_r::ops {
namespace {

constexpr float kLowest = -std::numeric_limits<float>::infinity();
constexpr std::int64_t kChunk = 256;  // logits looked at in one vector maximum

struct Candidate {
  std::int32_t id;
  float x;
  float weight;  // exp(x - max)
  bool before(const Candidate& o) const { return x > o.x || (x == o.x && id < o.id); }
};

// Kept by each thread, so that a steady state allocates nothing.
struct Scratch {
  std::vector<std::uint64_t> seen;
  std::vector<Candidate> kept;
  std::vector<float> values;
};
Scratch& scratch() {
  thread_local Scratch s;
  return s;
}

void penalise(std::span<float> logits, const SamplingParams& p,
              std::span<const std::int32_t> seen) {
  if (p.repetition_penalty == 1.0f && p.presence_penalty == 0.0f) return;
  auto& done = scratch().seen;
  if (done.size() < (logits.size() + 63) / 64) done.resize((logits.size() + 63) / 64);
  for (const auto id : seen) {
    std::uint64_t& word = done[static_cast<std::size_t>(id) / 64];
    const std::uint64_t bit = std::uint64_t{1} << (id % 64);
    if (word & bit) continue;
    word |= bit;
    float& x = logits[static_cast<std::size_t>(id)];
    x = x > 0 ? x / p.repetition_penalty : x * p.repetition_penalty;
    x -= p.presence_penalty;
  }
  for (const auto id : seen) done[static_cast<std::size_t>(id) / 64] = 0;
}

// The k-th largest logit. Chunks whose maximum cannot enter the heap are passed over whole.
float kth_largest(const cpu::Kernels& kernel, std::span<const float> x, std::size_t k) {
  auto& heap = scratch().values;  // smallest of the k best on top
  heap.clear();
  const auto n = static_cast<std::int64_t>(x.size());
  for (std::int64_t i = 0; i < n; i += kChunk) {
    const std::int64_t count = std::min(kChunk, n - i);
    if (heap.size() == k && !(kernel.max(x.data() + i, count) > heap.front())) continue;
    for (std::int64_t j = i; j < i + count; ++j) {
      const float v = std::isnan(x[j]) ? kLowest : x[j];
      if (heap.size() == k) {
        if (!(v > heap.front())) continue;
        std::pop_heap(heap.begin(), heap.end(), std::greater<>());
        heap.back() = v;
      } else {
        heap.push_back(v);
      }
      std::push_heap(heap.begin(), heap.end(), std::greater<>());
    }
  }
  return heap.front();
}

// Ids in ascending order with logit >= threshold, -inf left out.
void collect(const cpu::Kernels& kernel, std::span<const float> x, float threshold, float max,
             std::vector<Candidate>& kept) {
  kept.clear();
  float weight[kChunk];
  const auto n = static_cast<std::int64_t>(x.size());
  for (std::int64_t i = 0; i < n; i += kChunk) {
    const std::int64_t count = std::min(kChunk, n - i);
    if (kernel.max(x.data() + i, count) < threshold) continue;
    kernel.exp_of(x.data() + i, count, max, weight);
    for (std::int64_t j = i; j < i + count; ++j)
      if (x[j] >= threshold && x[j] != kLowest)
        kept.push_back({static_cast<std::int32_t>(j), x[j], weight[j - i]});
  }
}

double total(const cpu::Kernels& kernel, std::span<const float> x, float max) {
  return kernel.exp_sum(x.data(), static_cast<std::int64_t>(x.size()), max);
}

double total(const std::vector<Candidate>& kept) {
  double sum = 0;
  for (const auto& c : kept) sum += static_cast<double>(c.weight);
  return sum;
}

// Logits that top_p cannot keep: all n of them together weigh no more than what it leaves out.
float never_kept(float top_p, double all, float max, std::int64_t n) {
  const double each = (1.0 - static_cast<double>(top_p)) * all / static_cast<double>(n);
  return max + static_cast<float>(std::log(each)) - 1e-3f;  // a margin for the rounding
}

// The smallest set of largest logits whose probability reaches top_p (at least one): a logit stays
// while those before it sum to less. `all`: the weight of everything before this filter. The edge
// is found by bisection, each half selected and summed once. Leaves ids ascending.
void keep_top_p(std::vector<Candidate>& kept, float top_p, double all) {
  const double enough = static_cast<double>(top_p) * all;
  double before = 0;
  auto low = kept.begin(), high = kept.end();  // the first that goes lies in (low, high]
  while (high - low > 1) {
    const auto middle = low + (high - low) / 2;
    std::nth_element(low, middle, high,
                     [](const Candidate& a, const Candidate& b) { return a.before(b); });
    double sum = before;
    for (auto c = low; c != middle; ++c) sum += static_cast<double>(c->weight);
    if (sum < enough) {  // the middle one stays
      before = sum;
      low = middle;
    } else {
      high = middle;
    }
  }
  kept.erase(high, kept.end());
  std::sort(kept.begin(), kept.end(),
            [](const Candidate& a, const Candidate& b) { return a.id < b.id; });
}

// Inverse CDF over ids in ascending order.
std::int32_t draw(const std::vector<Candidate>& kept, double u) {
  const double target = u * total(kept);
  double sum = 0;
  for (const auto& c : kept) {
    sum += static_cast<double>(c.weight);
    if (target < sum) return c.id;
  }
  return kept.back().id;
}

// The same over every id, chunk by chunk, with the vector exponential.
std::int32_t draw_any(const cpu::Kernels& kernel, std::span<const float> x, float max, double u) {
  const auto n = static_cast<std::int64_t>(x.size());
  const double target = u * total(kernel, x, max);
  double sum = 0;
  std::int32_t last = 0;
  for (std::int64_t i = 0; i < n; i += kChunk) {
    const std::int64_t count = std::min(kChunk, n - i);
    const double after = sum + kernel.exp_sum(x.data() + i, count, max);
    if (target < after || i + kChunk >= n) {
      float weight[kChunk];
      kernel.exp_of(x.data() + i, count, max, weight);
      for (std::int64_t j = 0; j < count; ++j) {
        if (weight[j] <= 0) continue;
        sum += static_cast<double>(weight[j]);
        last = static_cast<std::int32_t>(i + j);
        if (target < sum) return last;
      }
      // Rounding left the target between this chunk's two sums: its last id of weight > 0, else on.
      if (target < after) return last;
    }
    sum = after;
  }
  return last;
}

}  // namespace

float uniform(const SampleKey& key) {
  // 224 bits of key in 192: an author is 0 or 1 and a token less than 2^31, so none collide.
  const auto r = philox4x32(
      {static_cast<std::uint32_t>(key.request), static_cast<std::uint32_t>(key.request >> 32),
       key.step, key.token * 2 + key.author},
      {static_cast<std::uint32_t>(key.seed), static_cast<std::uint32_t>(key.seed >> 32)});
  return static_cast<float>(r[0] >> 8) * 0x1p-24f;
}

std::int32_t sample(std::span<float> logits, const SamplingParams& params,
                    std::span<const std::int32_t> seen, std::span<const std::int32_t> suppressed,
                    const SampleKey& key) {
  DR_CHECK(!logits.empty()) << "sample: no logits";
  check_sampling("sample", params);
  const auto n = static_cast<std::int64_t>(logits.size());
  check_ids("sample", "seen", seen.data(), static_cast<std::int64_t>(seen.size()), n);
  check_ids("sample", "suppressed", suppressed.data(), static_cast<std::int64_t>(suppressed.size()),
            n);
  penalise(logits, params, seen);
  for (const auto id : suppressed) logits[static_cast<std::size_t>(id)] = kLowest;
  const auto& kernel = cpu::kernels();
  const std::int64_t best = kernel.argmax(logits.data(), n);
  if (params.temperature == 0.0f) return static_cast<std::int32_t>(best);
  for (auto& x : logits) x /= params.temperature;
  const float max = logits[static_cast<std::size_t>(best)];
  if (!(max > kLowest)) return static_cast<std::int32_t>(best);  // nothing is allowed
  const double u = static_cast<double>(uniform(key));
  const bool top_k = params.top_k > 0 && params.top_k < n;
  const bool top_p = params.top_p < 1.0f;
  if (!top_k && !top_p && params.min_p == 0.0f) return draw_any(kernel, logits, max, u);
  auto& kept = scratch().kept;
  if (top_k) {
    collect(kernel, logits, kth_largest(kernel, logits, static_cast<std::size_t>(params.top_k)),
            max, kept);
    if (top_p) keep_top_p(kept, params.top_p, total(kept));
  } else if (top_p) {
    const double all = total(kernel, logits, max);
    collect(kernel, logits, never_kept(params.top_p, all, max, n), max, kept);
    keep_top_p(kept, params.top_p, all);
  } else {
    collect(kernel, logits, kLowest, max, kept);
  }
  if (params.min_p > 0.0f)
    std::erase_if(kept, [&](const Candidate& c) { return c.weight < params.min_p; });
  return draw(kept, u);
}

void log_sum_exp(Stream& s, const Tensor& x, Tensor out) {
  check_rank("log_sum_exp", "x", x, DType::f32, 2);
  const std::int64_t rows = x.dim(0), n = x.dim(1);
  check_shape("log_sum_exp", "out", out, DType::f32, {rows});
  check_device("log_sum_exp", s, x, out);
  if (on_cuda(s, [&](auto stream) {
        cuda::log_sum_exp(x.data<float>(), rows, n, out.data<float>(), stream);
      }))
    return;
  const auto& kernel = cpu::kernels();
  s.parallel_for(rows, grain_for(0.5 * static_cast<double>(n)), [&](auto begin, auto end) {
    for (auto t = begin; t < end; ++t) {
      const float* row = x.data<float>() + t * n;
      const float max = kernel.max(row, n);
      out.data<float>()[t] =
          max > kLowest ? static_cast<float>(max + std::log(kernel.exp_sum(row, n, max))) : max;
    }
  });
}

}  // namespace dream_r::ops
