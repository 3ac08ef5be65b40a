#include "model/padding.h"

#include <algorithm>
#include <bit>

namespace dream_r {
namespace {

constexpr std::size_t kMostRows = 256;
constexpr std::int32_t kToken[] = {0};
constexpr Position kPosition[] = {{0, 0, 0}};

}  // namespace

std::size_t padded_rows(std::size_t rows) {
  if (rows > kMostRows) return rows;
  const std::size_t octave = std::bit_ceil(rows), between = octave / 4 * 3;
  return rows <= between ? between : octave;
}

bool PaddedBatch::fits(const Stream& stream, const Batch& batch, const TextConfig& config) {
  const auto of_text = [](const BatchRow& row) {
    return row.tokens.size() == 1 && row.feature_rows.empty();
  };
  const auto whole = [](const LogitsWanted& w) { return !w.keywords; };
  return stream.device().on_cuda() && config.moe.experts == 0 &&
         batch.wanted.size() == batch.rows.size() &&
         std::all_of(batch.rows.begin(), batch.rows.end(), of_text) &&
         std::all_of(batch.wanted.begin(), batch.wanted.end(), whole);
}

PaddedBatch::PaddedBatch(const Batch& batch, const KvStore& kv)
    : spare_(kv.spare()), rows_(batch.rows.size()), padded_(batch) {
  BatchRow row;
  row.tokens = kToken;
  row.positions = kPosition;
  row.own = {&spare_, 0};
  padded_.rows.resize(padded_rows(rows_), row);
  for (std::size_t i = rows_; i < padded_.rows.size(); ++i)
    padded_.wanted.push_back({static_cast<std::int32_t>(i), 0, false});
}

ForwardResult PaddedBatch::cut(ForwardResult result) const {
  if (result.full.defined()) result.full = result.full.rows(0, static_cast<std::int64_t>(rows_));
  result.first.resize(rows_);
  return result;
}

}  // namespace dream_r
