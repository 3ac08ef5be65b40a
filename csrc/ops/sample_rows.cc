#include <algorithm>
#include <cstring>
#include <vector>

#include "ops/checks.h"
#include "ops/cuda/kernels.h"
#include "ops/dispatch.h"
#include "ops/ops.h"
#include "ops/sampling.h"

namespace dream_r::ops {
namespace {

constexpr const char* kOp = "sample_rows";
constexpr std::int64_t kLargestVocabulary = std::int64_t{1}
                                            << 21;  // of the kernel's integer weights

void check_row(const SampleRow& r, std::int64_t n) {
  check_ids(kOp, "seen", r.seen.data(), static_cast<std::int64_t>(r.seen.size()), n);
  check_ids(kOp, "suppressed", r.suppressed.data(), static_cast<std::int64_t>(r.suppressed.size()),
            n);
}

bool penalises(const SamplingParams& p) {
  return p.repetition_penalty != 1.0f || p.presence_penalty != 0.0f;
}

std::size_t padded(std::size_t bytes) { return (bytes + 255) / 256 * 256; }

// Device memory of one call: the choices and behind them their lists, then the kernel's own, then
// the tokens. `host` is what is uploaded, laid out for `base`.
template <class CudaStream>
void sample_on_cuda(Stream& s, const Tensor& logits, std::span<const SampleRow> rows,
                    std::span<std::int32_t> out, CudaStream stream) {
  std::size_t ids = 0;
  for (const SampleRow& r : rows) ids += r.seen.size() + r.suppressed.size();
  const std::size_t heads = rows.size() * sizeof(cuda::SampleChoice);
  const std::size_t upload = padded(heads + ids * sizeof(std::int32_t));
  const std::size_t own = padded(cuda::sample_scratch(logits.dim(0), logits.dim(1)));
  std::byte* base = s.scratch(upload + own + out.size_bytes());
  std::vector<std::byte> host(upload);
  std::size_t at = heads;
  auto last = cuda::SampleStages::scale;
  const auto put = [&](std::span<const std::int32_t> list) {
    const auto* there = reinterpret_cast<const std::int32_t*>(base + at);
    std::copy(list.begin(), list.end(), reinterpret_cast<std::int32_t*>(host.data() + at));
    at += list.size_bytes();
    return there;
  };
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const auto& [p, seen, suppressed, key] = rows[i];
    const bool counts = penalises(p);
    const cuda::SampleChoice choice{p.temperature,
                                    p.top_p,
                                    p.min_p,
                                    p.repetition_penalty,
                                    p.presence_penalty,
                                    uniform(key),
                                    p.top_k,
                                    counts ? static_cast<std::int32_t>(seen.size()) : 0,
                                    static_cast<std::int32_t>(suppressed.size()),
                                    counts ? put(seen) : nullptr,
                                    put(suppressed),
                                    0};
    last = std::max(last, cuda::sample_stages(choice, logits.dim(1)));
    std::memcpy(host.data() + i * sizeof choice, &choice, sizeof choice);
  }
  auto* tokens = reinterpret_cast<std::int32_t*>(base + upload + own);
  cuda::copy(base, host.data(), at, stream);
  cuda::sample(logits.data<float>(), logits.dim(0), logits.dim(1),
               reinterpret_cast<cuda::SampleChoice*>(base), last, base + upload, tokens, stream);
  cuda::copy(out.data(), tokens, out.size_bytes(), stream);
  s.wait();
}

}  // namespace

void sample_rows(Stream& s, Tensor logits, std::span<const SampleRow> rows,
                 std::span<std::int32_t> out) {
  check_rank(kOp, "logits", logits, DType::f32, 2);
  const std::int64_t n = logits.dim(1);
  DR_CHECK(logits.dim(0) == static_cast<std::int64_t>(rows.size()) && out.size() == rows.size())
      << kOp << ": logits " << logits.shape().str() << ", " << rows.size() << " rows, "
      << out.size() << " tokens";
  DR_CHECK(n > 0 && n <= kLargestVocabulary) << kOp << ": a vocabulary of " << n;
  for (const SampleRow& r : rows) check_sampling(kOp, r.params), check_row(r, n);
  check_device(kOp, s, logits);
  if (rows.empty()) return;
  if (on_cuda(s, [&](auto stream) { sample_on_cuda(s, logits, rows, out, stream); })) return;
  s.parallel_for(static_cast<std::int64_t>(rows.size()), 1, [&](auto begin, auto end) {
    for (auto i = begin; i < end; ++i) {
      const SampleRow& r = rows[static_cast<std::size_t>(i)];
      out[static_cast<std::size_t>(i)] =
          sample(std::span(logits.data<float>() + i * n, static_cast<std::size_t>(n)), r.params,
                 r.seen, r.suppressed, r.key);
    }
  });
}

}  // namespace dream_r::ops
