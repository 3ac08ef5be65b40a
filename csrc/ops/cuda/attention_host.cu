// Attention whose rows and block tables, or segments, lie in host memory: one upload, then the
// kernels. A caller that keeps them on the device (a captured graph) calls those itself.
#include <algorithm>
#include <cstddef>
#include <vector>

#include "core/stream.h"
#include "ops/cuda/attention.h"

namespace dream_r::cuda {
namespace {

std::size_t aligned(std::size_t bytes) { return (bytes + 255) / 256 * 256; }

AttentionBatch with_rows(AttentionBatch b, const ops::AttentionRow* rows,
                         const ops::AttentionRows::Part& part) {
  b.rows = rows;
  b.count = part.count;
  b.max_q_len = part.max_q_len;
  b.max_keys = part.max_keys;
  return b;
}

// Rows of few queries are a batch of their own, with the kernel that suits them.
using Batches = AttentionBatch[2];

std::size_t scratch_of(const Batches& batches) {
  std::size_t floats = 0;
  for (const AttentionBatch& b : batches)
    floats = std::max(floats, attention_scratch(b, plan_attention(b, multiprocessors())));
  return floats * sizeof(float);
}

void run(const Batches& batches, std::byte* scratch, cudaStream_t stream) {
  for (const AttentionBatch& b : batches)
    attention(b, plan_attention(b, multiprocessors()), reinterpret_cast<float*>(scratch), stream);
}

// Scratch: the rows, then the partial sums.
void upload_and_attend(Stream& s, const AttentionBatch& b,
                       std::span<const ops::AttentionRow> rows) {
  const ops::AttentionUpload upload(rows, b.heads.q / b.heads.kv);
  std::vector<std::byte> host(upload.bytes());
  const std::size_t head = aligned(host.size());
  AttentionBatch batches[] = {with_rows(b, nullptr, upload.few()),
                              with_rows(b, nullptr, upload.many())};
  std::byte* scratch = s.scratch(head + scratch_of(batches));
  const ops::AttentionRow* there = upload.write(host.data(), scratch).device;
  copy(scratch, host.data(), host.size(), s.cuda());
  batches[0].rows = there, batches[1].rows = there + upload.few().count;
  run(batches, scratch + head, s.cuda());
}

}  // namespace

void attention(Stream& s, const AttentionBatch& b, const ops::AttentionRows& rows) {
  if (!rows.device) return upload_and_attend(s, b, rows.rows);
  const AttentionBatch batches[] = {with_rows(b, rows.device, rows.few),
                                    with_rows(b, rows.device + rows.few.count, rows.many)};
  run(batches, s.scratch(scratch_of(batches)), s.cuda());
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
