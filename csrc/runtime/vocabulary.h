#pragma once
// What the runtime knows of a tokenizer: classes of tokens and the few ids it acts on. No text is
// decoded in the loop (method, section 1).
#include <array>
#include <cstdint>
#include <limits>
#include <unordered_map>
#include <vector>

#include "runtime/request.h"

namespace dream_r {

namespace token_class {
constexpr std::uint8_t blank_line = 1, starts_newline = 2, ends_newline = 4, white_space = 8;
}

// How a tokenizer without a token </think> spells it: with ordinary tokens, and with others by what
// stands beside it. For each token that can take part: how many of its eight characters stand at
// the end of the text after this token, by how many stood there before it; 8: all have been read.
constexpr std::uint8_t kThinkLength = 8;
using ThinkSpelling = std::unordered_map<std::int32_t, std::array<std::uint8_t, kThinkLength>>;

struct Vocabulary {
  std::vector<std::uint8_t> classes;  // bits of token_class, one byte a token
  std::vector<std::int32_t> eos;
  std::int32_t think_end = -1;  // the token </think>; -1: it is spelled
  ThinkSpelling think_spelling;
  std::vector<std::int32_t> forced_end;  // put when the thinking budget is used up
  // Never sampled (vision tokens and the like); in order. One model may have a larger vocabulary
  // than the other: those beyond a model's own are nothing to it.
  std::vector<std::int32_t> suppressed;
  std::vector<std::int32_t> suffix;  // the scoring question
  std::vector<std::int32_t> positive, negative;
  std::vector<std::int32_t> digit_suffix;         // the question of `specreason`
  std::vector<std::vector<std::int32_t>> digits;  // ids of "0".."9"

  bool is_eos(std::int32_t token) const;
  std::uint8_t class_of(std::int32_t token) const;
  // Whether thinking ends with `token`. `read`: characters of a spelled </think> so far, 0 where a
  // step begins (one that a step's limit cuts in two is not seen).
  bool ends_thinking(std::int32_t token, std::uint8_t& read) const;
  // Error when the two sides of the verdict share a token, or an id lies outside the vocabulary.
  void check(std::int32_t vocab) const;
};

// A draft whose tokenizer is not the target's: steps are translated at their boundaries.
struct DraftTokens {
  Vocabulary vocabulary;  // the scoring question and forced_end are the target's business
  std::int32_t positions = std::numeric_limits<std::int32_t>::max();  // most the draft reads
};

// Follows one step token by token.
class StepScanner {
 public:
  explicit StepScanner(const Vocabulary& vocabulary) : vocabulary_(&vocabulary) {}
  // True when `token` ends the step; end() then says why.
  bool push(std::int32_t token);
  StepEnd end() const { return end_; }

 private:
  const Vocabulary* vocabulary_;
  bool after_newline_ = false;
  std::uint8_t think_read_ = 0;
  StepEnd end_ = StepEnd::limit;
};

// Nothing but white space (an empty step too).
bool is_blank(const Vocabulary& vocabulary, const std::vector<std::int32_t>& tokens);

}  // namespace dream_r
