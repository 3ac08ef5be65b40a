#pragma once
// A draft with a tokenizer of its own, without text: its ids are the target's, shifted, and a step
// may become longer, shorter, empty, or end otherwise when it is translated.
#include "fake_lanes.h"

namespace dream_r::test {

constexpr std::int32_t kShift = 100;

enum class Tongue { same, exact, longer, shorter };

inline DraftTokens draft_tokens(std::int32_t positions) {
  const Vocabulary target = make_vocabulary();
  DraftTokens d;
  d.vocabulary.classes.assign(kShift, 0);
  d.vocabulary.classes.insert(d.vocabulary.classes.end(), target.classes.begin(),
                              target.classes.end());
  d.vocabulary.eos = {kEos + kShift};
  d.vocabulary.think_end = kThinkEnd + kShift;
  d.positions = positions;
  return d;
}

// A function of the step alone. `strange` of them do not mean what they meant.
inline Tokens translate(Tongue tongue, double strange, Role from, const Tokens& step) {
  const std::int32_t shift = from == Role::draft ? -kShift : kShift;
  std::uint64_t h = 17;
  for (auto t : step) h = mix(h, static_cast<std::uint64_t>(t));
  Tokens out;
  for (auto t : step) {
    const auto word = t + shift;
    const bool changes = tongue != Tongue::exact && t != step.back() && mix(h, t) % 2;
    const int copies = !changes ? 1 : tongue == Tongue::longer ? 2 : 0;
    out.insert(out.end(), copies, word);
  }
  if (unit(mix(h, 1)) >= strange) return out;
  const std::int32_t odd[] = {kThinkEnd, kEos, kPad};
  const auto which = mix(h, 2) % 4, where = mix(h, 3) % (out.size() + 1);
  if (which == 3) return {};
  out.insert(out.begin() + static_cast<std::ptrdiff_t>(where),
             odd[which] + (from == Role::draft ? 0 : kShift));
  return out;
}

}  // namespace dream_r::test
