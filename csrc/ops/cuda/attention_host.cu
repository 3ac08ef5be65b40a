// Attention whose rows and block tables, or segments, lie in host memory: one upload, then the
// kernels. A caller that keeps them on the device (a captured graph) calls those itself.
#include <algorithm>
#include <vector>

#include "core/stream.h"
#include "ops/cuda/attention.h"

namespace dream_r::cuda {
namespace {

std::size_t aligned(std::size_t bytes) { return (bytes + 255) / 256 * 256; }

int blocks_of(int tokens) { return (tokens + ops::kKvBlock - 1) / ops::kKvBlock; }

// Rows, then their tables, as bytes whose pointers hold once they lie at `device`.
struct Upload {
  std::vector<ops::AttentionRow> rows;
  std::vector<std::int32_t> tables;

  std::size_t table_offset() const { return aligned(rows.size() * sizeof(ops::AttentionRow)); }
  std::size_t bytes() const { return table_offset() + aligned(tables.size() * sizeof(int)); }

  explicit Upload(std::vector<ops::AttentionRow> from) : rows(std::move(from)) {
    for (const auto& r : rows) {
      tables.insert(tables.end(), r.prefix_table, r.prefix_table + blocks_of(r.prefix_len));
      tables.insert(tables.end(), r.own_table, r.own_table + blocks_of(r.own_begin + r.q_len));
    }
  }
  void to(std::byte* device, cudaStream_t stream) {
    const auto* at = reinterpret_cast<const std::int32_t*>(device + table_offset());
    for (auto& r : rows) {
      r.prefix_table = at;
      r.own_table = at += blocks_of(r.prefix_len);
      at += blocks_of(r.own_begin + r.q_len);
    }
    copy(device, rows.data(), rows.size() * sizeof(ops::AttentionRow), stream);
    copy(device + table_offset(), tables.data(), tables.size() * sizeof(int), stream);
  }
};

// `b` with the bounds of rows [first, first + count).
AttentionBatch with_rows(AttentionBatch b, const std::vector<ops::AttentionRow>& rows,
                         std::size_t first, std::size_t count) {
  b.count = static_cast<int>(count);
  b.max_q_len = b.max_keys = 0;
  for (std::size_t i = first; i < first + count; ++i) {
    b.max_q_len = std::max(b.max_q_len, rows[i].q_len);
    b.max_keys = std::max(b.max_keys, rows[i].prefix_len + rows[i].own_begin + rows[i].q_len);
  }
  return b;
}

}  // namespace

void attention(Stream& s, const AttentionBatch& b, std::span<const ops::AttentionRow> rows) {
  std::vector<ops::AttentionRow> some;
  std::copy_if(rows.begin(), rows.end(), std::back_inserter(some),
               [](const auto& r) { return r.q_len > 0; });
  if (some.empty()) return;
  // Rows of few queries first: they are a batch of their own, with the kernel that suits them.
  const auto split = std::stable_partition(some.begin(), some.end(), [&](const auto& r) {
    return r.q_len * (b.heads.q / b.heads.kv) <= kDecodePairs;
  });
  const auto few = static_cast<std::size_t>(split - some.begin());
  Upload upload(std::move(some));
  AttentionBatch batches[] = {with_rows(b, upload.rows, 0, few),
                              with_rows(b, upload.rows, few, upload.rows.size() - few)};
  AttentionPlan plans[2];
  std::size_t floats = 0;
  for (int i = 0; i < 2; ++i) {
    plans[i] = plan_attention(batches[i], multiprocessors());
    floats = std::max(floats, attention_scratch(batches[i], plans[i]));
  }
  std::byte* scratch = s.scratch(upload.bytes() + floats * sizeof(float));
  upload.to(scratch, s.cuda());
  batches[0].rows = reinterpret_cast<const ops::AttentionRow*>(scratch);
  batches[1].rows = batches[0].rows + few;
  auto* partial = reinterpret_cast<float*>(scratch + upload.bytes());
  for (int i = 0; i < 2; ++i) attention(batches[i], plans[i], partial, s.cuda());
}

void segment_attention(Stream& s, SegmentBatch b, std::span<const std::int32_t> cu) {
  b.segments = static_cast<int>(cu.size()) - 1;
  b.max_segment = 0;
  for (std::size_t i = 1; i < cu.size(); ++i)
    b.max_segment = std::max(b.max_segment, cu[i] - cu[i - 1]);
  const std::size_t head = aligned(cu.size_bytes());
  std::byte* scratch = s.scratch(head + segment_scratch(b));
  copy(scratch, cu.data(), cu.size_bytes(), s.cuda());
  b.cu = reinterpret_cast<const std::int32_t*>(scratch);
  segment_attention(b, scratch + head, s.cuda());
}

}  // namespace dream_r::cuda
