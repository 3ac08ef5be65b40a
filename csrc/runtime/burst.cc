#include "runtime/burst.h"

#include <algorithm>

namespace dream_r {

Burst::Burst(WorkPtr work, const BurstContext& context)
    : work_(std::move(work)),
      context_(context),
      prompt_(work_->spec->prompt(work_->role)),
      seen_(work_->context),
      written_(work_->cached) {}

void Burst::append_positions(std::int32_t begin, std::int32_t end) {
  const auto prompt_end = static_cast<std::int32_t>(prompt_.positions.size());
  for (std::int32_t i = begin; i < end; ++i) {
    const std::int32_t p = i + prompt_.rope_delta;
    positions_.push_back(i < prompt_end ? prompt_.positions[i] : Position{p, p, p});
  }
}

std::int32_t Burst::sample(std::span<float> logits, std::int32_t step, std::int32_t token) {
  const RequestSpec& spec = *work_->spec;
  ops::SampleKey key;
  key.seed = spec.seed;
  key.request = spec.index;
  key.step = static_cast<std::uint32_t>(step);
  key.author = work_->role == Role::draft ? 0 : 1;
  key.token = static_cast<std::uint32_t>(token);
  const Vocabulary& v = context_.vocabulary;
  const auto end = std::lower_bound(
      v.suppressed.begin(), v.suppressed.end(), logits.size(),
      [](std::int32_t id, std::size_t n) { return static_cast<std::size_t>(id) < n; });
  const std::span<const std::int32_t> inside(v.suppressed.begin(), end);
  const bool first = work_->no_eos_first && work_->tokens.empty();
  if (!spec.ignore_eos && !first) return ops::sample(logits, spec.sampling, seen_, inside, key);
  std::vector<std::int32_t> suppressed(inside.begin(), inside.end());
  suppressed.insert(suppressed.end(), v.eos.begin(), v.eos.end());
  return ops::sample(logits, spec.sampling, seen_, suppressed, key);
}

std::unique_ptr<Burst> make_burst(WorkPtr work, const BurstContext& context) {
  switch (work->kind) {
    case WorkKind::prefill:
      return make_prefill(std::move(work), context);
    case WorkKind::decode:
      return make_decode(std::move(work), context);
    case WorkKind::verify:
      return make_verify(std::move(work), context);
    case WorkKind::translate:
      break;  // needs no model: TextLane
  }
  DR_FAIL(state) << "unknown kind of work";
}

}  // namespace dream_r
