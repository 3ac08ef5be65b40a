#include "runtime/burst.h"

#include <algorithm>
#include <iterator>

namespace dream_r {

Burst::Burst(WorkPtr work, const BurstContext& context)
    : work_(std::move(work)),
      context_(context),
      prompt_(work_->spec->prompt(work_->role)),
      seen_(work_->context),
      written_(work_->cached) {
  // Models of one tokenizer pad their vocabularies differently: not every id is in this one.
  const Vocabulary& v = context.vocabulary;
  const std::int32_t size = context.model.config().text.vocab;
  const auto inside = [size](std::int32_t id) { return id < size; };
  std::copy_if(v.suppressed.begin(), v.suppressed.end(), std::back_inserter(suppressed_), inside);
  never_ = suppressed_.size();
  std::copy_if(v.eos.begin(), v.eos.end(), std::back_inserter(suppressed_), inside);
}

void Burst::append_positions(std::int32_t begin, std::int32_t end) {
  const auto prompt_end = static_cast<std::int32_t>(prompt_.positions.size());
  for (std::int32_t i = begin; i < end; ++i) {
    const std::int32_t p = i + prompt_.rope_delta;
    positions_.push_back(i < prompt_end ? prompt_.positions[i] : Position{p, p, p});
  }
}

ops::SampleRow Burst::draw(std::int32_t step, std::int32_t token, std::size_t seen) const {
  const RequestSpec& spec = *work_->spec;
  ops::SampleRow row;
  row.params = spec.sampling;
  row.seen = std::span(seen_).first(seen);
  const bool first = work_->no_eos_first && work_->tokens.empty();
  row.suppressed =
      std::span(suppressed_).first(spec.ignore_eos || first ? suppressed_.size() : never_);
  row.key.seed = spec.seed;
  row.key.request = spec.index;
  row.key.step = static_cast<std::uint32_t>(step);
  row.key.author = work_->role == Role::draft ? 0 : 1;
  row.key.token = static_cast<std::uint32_t>(token);
  return row;
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
