#include "runtime/vocabulary.h"

#include <algorithm>

namespace dream_r {

bool Vocabulary::is_eos(std::int32_t token) const {
  return std::find(eos.begin(), eos.end(), token) != eos.end();
}

std::uint8_t Vocabulary::class_of(std::int32_t token) const {
  const auto i = static_cast<std::size_t>(token);
  return i < classes.size() ? classes[i] : 0;
}

bool Vocabulary::ends_thinking(std::int32_t token, std::uint8_t& read) const {
  if (token == think_end) return true;
  const auto it = think_spelling.find(token);
  const std::uint8_t now = it == think_spelling.end() ? 0 : it->second[read];
  read = now % kThinkLength;
  return now == kThinkLength;
}

void Vocabulary::check(std::int32_t vocab) const {
  const auto inside = [&](const std::vector<std::int32_t>& ids, const char* what) {
    for (auto id : ids)
      DR_CHECK(0 <= id && id < vocab)
          << what << " token " << id << " is outside the model's vocabulary of " << vocab;
  };
  inside(eos, "end-of-text"), inside(forced_end, "forced-end"), inside(suffix, "scoring suffix");
  DR_CHECK(std::is_sorted(suppressed.begin(), suppressed.end()))
      << "the suppressed tokens are not in order";
  DR_CHECK(suppressed.empty() || suppressed.front() >= 0)
      << "suppressed token " << suppressed.front() << " is negative";
  if (think_end != -1) inside({think_end}, "end-of-thinking");
  for (const auto& [id, read] : think_spelling) {
    inside({id}, "end-of-thinking");
    for (auto n : read)
      DR_CHECK(n <= kThinkLength) << "token " << id << " reads " << n << " characters of </think>";
  }
  inside(positive, "positive"), inside(negative, "negative"), inside(digit_suffix, "digit suffix");
  for (const auto& ids : digits) inside(ids, "digit");
  for (auto p : positive)
    DR_CHECK(std::find(negative.begin(), negative.end(), p) == negative.end())
        << "the positive and negative keywords share token " << p
        << ": choose keywords that differ in their first token";
}

bool StepScanner::push(std::int32_t token) {
  if (vocabulary_->is_eos(token)) return end_ = StepEnd::eos, true;
  if (vocabulary_->ends_thinking(token, think_read_)) return end_ = StepEnd::think_end, true;
  const auto c = vocabulary_->class_of(token);
  const bool joined = after_newline_ && (c & token_class::starts_newline);
  after_newline_ = c & token_class::ends_newline;
  if ((c & token_class::blank_line) || joined) return end_ = StepEnd::boundary, true;
  return false;
}

bool is_blank(const Vocabulary& vocabulary, const std::vector<std::int32_t>& tokens) {
  return std::all_of(tokens.begin(), tokens.end(), [&](std::int32_t t) {
    return vocabulary.class_of(t) & token_class::white_space;
  });
}

}  // namespace dream_r
