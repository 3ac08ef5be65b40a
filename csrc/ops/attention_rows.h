#pragma once
// The rows of one batch as attention() reads them. In host memory they are the rows themselves; a
// model on a CUDA device has them there once for all its layers, with their block tables.
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace dream_r::ops {

// A run of query tokens [q_begin, q_begin + q_len) of one sequence. Query i sees, in this order,
//   prefix tokens [0, prefix_len)        through prefix_table   (all of them; may be empty)
//   own tokens    [0, own_begin + i]     through own_table      (causal)
// A plain decode or prefill row has only `own`. A scoring suffix has the candidate step's sequence
// as its prefix and scratch blocks as its own: branches of a tree share a prefix and do not see
// each other. Tables hold block ids; token j of a table lies in block table[j / 16] at offset j
// % 16.
struct AttentionRow {
  std::int32_t q_begin = 0, q_len = 0;
  const std::int32_t* prefix_table = nullptr;
  std::int32_t prefix_len = 0;
  const std::int32_t* own_table = nullptr;
  std::int32_t own_begin = 0;
};

struct AttentionRows {
  AttentionRows() = default;
  template <std::convertible_to<std::span<const AttentionRow>> R>
  AttentionRows(const R& rows) : rows(rows) {}

  std::span<const AttentionRow> rows;  // in host memory, tables too
  // On a CUDA device: those with queries, those of few queries first, tables there too. Null: every
  // call of attention() uploads them.
  const AttentionRow* device = nullptr;
  // Rows that one launch serves, and bounds over them: a captured graph stays valid while its rows
  // grow up to them.
  struct Part {
    int count = 0, max_q_len = 0;
    int max_keys = 0;  // of prefix_len + own_begin + q_len, rounded up
    bool operator==(const Part&) const = default;
  };
  Part few, many;
};

// Rows of `tokens` alone, queries of `rows` (whose q_begin rise): each sees what it saw there.
std::vector<AttentionRow> rows_of_tokens(std::span<const AttentionRow> rows,
                                         std::vector<std::int32_t> tokens);

constexpr int kFewPairs = 16;  // (query token, head of the group) pairs of a row that are few

// Puts rows and tables into one piece of memory for a device.
class AttentionUpload {
 public:
  // `group`: query heads a key head serves.
  AttentionUpload(std::span<const AttentionRow> rows, int group);
  std::size_t bytes() const;
  // Of memory for any rows of the same counts and bounds: what lies behind it does not move.
  std::size_t capacity() const;
  const AttentionRows::Part& few() const { return parts_[0]; }
  const AttentionRows::Part& many() const { return parts_[1]; }
  // The bytes that have to lie at `device` (8-byte aligned), written to `host`.
  AttentionRows write(std::byte* host, const std::byte* device) const;

 private:
  std::span<const AttentionRow> all_;
  std::vector<AttentionRow> rows_;  // with queries, few first
  AttentionRows::Part parts_[2];
  std::size_t entries_ = 0;  // of all tables
};

}  // namespace dream_r::ops
