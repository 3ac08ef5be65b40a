// Paged attention: decode (one query a sequence, bound by reading the cache) and causal prefill,
// and the vision tower's attention inside segments.
#include "bench.h"

using namespace dream_r;
using namespace dream_r::bench;

namespace {

struct Shape3 {
  const char* name;
  ops::Heads heads;
};
const Shape3 kShapes[] = {{"pocket draft", {3, 3, 32}},
                          {"pocket target", {8, 4, 32}},
                          {"0.6B", {16, 8, 128}},
                          {"8B", {32, 8, 128}}};

// `queries` tokens at the end of a sequence of `context`.
void paged(Report& report, Stream& s, const Shape3& shape, DType type, int queries, int context) {
  const auto h = shape.heads;
  const std::string name = std::string(shape.name) + " " + name_of(type) +
                           " q=" + std::to_string(queries) + " context=" + std::to_string(context);
  if (!report.wants(name)) return;
  const int blocks = (context + 15) / 16;
  const ops::KvLayer layer{random_tensor({blocks, h.kv, h.dim, 16}, type),
                           random_tensor({blocks, h.kv, 16, h.dim}, type)};
  std::vector<std::int32_t> table(static_cast<std::size_t>(blocks));
  for (int i = 0; i < blocks; ++i) table[i] = (i * 7919) % blocks;  // scattered
  const Tensor qkv = random_tensor({queries, (h.q + 2 * h.kv) * h.dim});
  Tensor out = Tensor::empty({queries, h.q * h.dim}, DType::f32);
  const ops::AttentionRow row{0, queries, nullptr, 0, table.data(), context - queries};
  Row r{name, {}};
  r.time =
      measure(report.repeats(), [&] { ops::attention(s, qkv, h, layer, std::span(&row, 1), out); });
  r.bytes = static_cast<double>(layer.k.nbytes() + layer.v.nbytes());
  r.flops = 4.0 * h.q * h.dim * queries * (context - queries / 2.0);
  report.add(r);
}

void vision(Report& report, Stream& s, int tokens, int heads, int dim) {
  const std::string name = "vision " + std::to_string(tokens) + " tokens, " +
                           std::to_string(heads) + " heads of " + std::to_string(dim);
  if (!report.wants(name)) return;
  const Tensor qkv = random_tensor({tokens, 3 * heads * dim});
  Tensor out = Tensor::empty({tokens, heads * dim}, DType::f32);
  const std::int32_t cu[] = {0, tokens};
  Row r{name, {}};
  r.time = measure(report.repeats(), [&] {
    ops::segment_attention(s, qkv, heads, dim, cu, ops::Products::f32, out);
  });
  r.bytes = static_cast<double>(qkv.nbytes());
  r.flops = 4.0 * heads * dim * tokens * static_cast<double>(tokens);
  report.add(r);
}

}  // namespace

int main(int argc, char** argv) {
  const Options o = parse(argc, argv, "Attention by heads, queries and context");
  Stream s(o.threads);
  Report report(o, s);
  for (const auto& shape : kShapes)
    for (const auto type : {DType::bf16, DType::f32}) {
      report.calibrate(shape.name);
      for (const int context : {64, 512, 4096}) paged(report, s, shape, type, 1, context);
      for (const int queries : {8, 40}) paged(report, s, shape, type, queries, 512);
      paged(report, s, shape, type, 1024, 1024);
    }
  report.calibrate("vision");
  vision(report, s, 64, 4, 32);
  vision(report, s, 256, 16, 64);
  vision(report, s, 2048, 16, 72);
  report.write();
}
