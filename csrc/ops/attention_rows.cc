#include "ops/attention_rows.h"

#include <algorithm>
#include <bit>
#include <iterator>

namespace dream_r::ops {
namespace {

constexpr std::int64_t kBlock = 16;

std::size_t blocks_of(std::int64_t tokens) {
  return static_cast<std::size_t>((tokens + kBlock - 1) / kBlock);
}

std::size_t own_blocks(const AttentionRow& r) {
  return blocks_of(std::int64_t{r.own_begin} + r.q_len);
}

// The next of 256, 320, 384, 448, 512, 640, ...: four steps an octave, so that a growing context
// meets few of them and none is more than a quarter too large.
int rounded(int keys) {
  if (keys <= 256) return 256;
  const int step = static_cast<int>(std::bit_floor(static_cast<unsigned>(keys - 1))) / 4;
  return (keys + step - 1) / step * step;
}

AttentionRows::Part part_of(std::span<const AttentionRow> rows) {
  AttentionRows::Part p;
  p.count = static_cast<int>(rows.size());
  for (const AttentionRow& r : rows) {
    p.max_q_len = std::max(p.max_q_len, r.q_len);
    p.max_keys = std::max(p.max_keys, rounded(r.prefix_len + r.own_begin + r.q_len));
  }
  return p;
}

}  // namespace

std::vector<AttentionRow> rows_of_tokens(std::span<const AttentionRow> rows,
                                         std::vector<std::int32_t> tokens) {
  std::sort(tokens.begin(), tokens.end());
  tokens.erase(std::unique(tokens.begin(), tokens.end()), tokens.end());
  std::vector<AttentionRow> out;
  auto row = rows.begin();
  for (const std::int32_t t : tokens) {
    while (t >= row->q_begin + row->q_len) ++row;
    if (t > row->q_begin && !out.empty() && t == out.back().q_begin + out.back().q_len) {
      ++out.back().q_len;
      continue;
    }
    out.push_back(*row);
    out.back().q_begin = t, out.back().q_len = 1;
    out.back().own_begin += t - row->q_begin;
  }
  return out;
}

AttentionUpload::AttentionUpload(std::span<const AttentionRow> rows, int group) : all_(rows) {
  std::copy_if(rows.begin(), rows.end(), std::back_inserter(rows_),
               [](const AttentionRow& r) { return r.q_len > 0; });
  const auto end = std::stable_partition(rows_.begin(), rows_.end(), [&](const AttentionRow& r) {
    return r.q_len * group <= kFewPairs;
  });
  parts_[0] = part_of({rows_.begin(), end});
  parts_[1] = part_of({end, rows_.end()});
  for (const AttentionRow& r : rows_) entries_ += blocks_of(r.prefix_len) + own_blocks(r);
}

std::size_t AttentionUpload::bytes() const {
  return rows_.size() * sizeof(AttentionRow) + entries_ * sizeof(std::int32_t);
}

std::size_t AttentionUpload::capacity() const {
  std::size_t n = 0;
  for (const auto& p : parts_) {
    const std::size_t entries = blocks_of(p.max_keys) + 1;  // two tables may share the keys
    n +=
        static_cast<std::size_t>(p.count) * (sizeof(AttentionRow) + entries * sizeof(std::int32_t));
  }
  return n;
}

AttentionRows AttentionUpload::write(std::byte* host, const std::byte* device) const {
  auto* row = reinterpret_cast<AttentionRow*>(host);
  auto* entry = reinterpret_cast<std::int32_t*>(host + rows_.size() * sizeof(AttentionRow));
  const auto there = [&](const std::int32_t* p) {
    return reinterpret_cast<const std::int32_t*>(device +
                                                 (reinterpret_cast<const std::byte*>(p) - host));
  };
  for (const AttentionRow& r : rows_) {
    AttentionRow to = r;
    to.prefix_table = there(entry);
    entry = std::copy_n(r.prefix_table, blocks_of(r.prefix_len), entry);
    to.own_table = there(entry);
    entry = std::copy_n(r.own_table, own_blocks(r), entry);
    *row++ = to;
  }
  AttentionRows out(all_);
  out.device = reinterpret_cast<const AttentionRow*>(device);
  out.few = parts_[0], out.many = parts_[1];
  return out;
}

}  // namespace dream_r::ops
