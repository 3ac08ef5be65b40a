// Attention on the GPU: decode by context (bound by reading the cache), chunks of prefill and
// verification, the vision tower's segments.
#include <numeric>

#include "bench_cuda.h"
#include "ops/cuda/attention.h"

using namespace dream_r;
using namespace dream_r::bench;

namespace {

struct Model {
  const char* name;
  ops::Heads heads;
};
const Model kModels[] = {{"2B", {16, 8, 128}},
                         {"4B, 8B", {32, 8, 128}},
                         {"32B", {64, 8, 128}},
                         {"235B-A22B", {64, 4, 128}}};

struct Work {
  int rows, q_len, context;  // each row's queries end a sequence of `context` tokens of its own
};

const char* name_of(cuda::AttentionKernel k) {
  return k == cuda::AttentionKernel::plain    ? "plain"
         : k == cuda::AttentionKernel::decode ? "decode"
                                              : "chunk";
}

// Rows whose blocks lie scattered over the cache, none shared.
struct Sequences {
  DeviceArray<std::int32_t> tables;
  DeviceArray<ops::AttentionRow> rows;
  static Sequences of(const Work& w) {
    const int each = (w.context + 15) / 16;
    std::vector<std::int32_t> ids(static_cast<std::size_t>(each) * w.rows);
    std::iota(ids.begin(), ids.end(), 0);
    std::shuffle(ids.begin(), ids.end(), std::mt19937(2));
    DeviceArray<std::int32_t> tables(ids);
    std::vector<ops::AttentionRow> rows;
    for (int r = 0; r < w.rows; ++r)
      rows.push_back(
          {r * w.q_len, w.q_len, nullptr, 0, tables.data() + r * each, w.context - w.q_len});
    DeviceArray<ops::AttentionRow> device_rows(rows);
    return {std::move(tables), std::move(device_rows)};
  }
};

void paged(GpuReport& report, const Model& model, const Work& w) {
  const ops::Heads h = model.heads;
  const std::string name = std::string(model.name) + " rows=" + std::to_string(w.rows) +
                           " q=" + std::to_string(w.q_len) +
                           " context=" + std::to_string(w.context);
  if (!report.wants(name)) return;
  const Sequences sequences = Sequences::of(w);
  const std::size_t block = static_cast<std::size_t>(h.kv) * h.dim * 16;
  const std::size_t cache = static_cast<std::size_t>(w.rows) * ((w.context + 15) / 16) * block;
  const auto pattern = random_bf16(std::size_t{1} << 20);
  const DeviceArray<std::uint16_t> k(cache, pattern), v(cache, pattern);
  const int tokens = w.rows * w.q_len, width = (h.q + 2 * h.kv) * h.dim;
  const DeviceArray<float> q(random_floats(static_cast<std::size_t>(tokens) * width));
  const DeviceArray<float> out(static_cast<std::size_t>(tokens) * h.q * h.dim);
  const cuda::AttentionBatch batch{h,        q.data(), width,       out.data(),
                                   k.data(), v.data(), DType::bf16, sequences.rows.data(),
                                   w.rows,   tokens,   w.q_len,     w.context};
  const auto plan = cuda::plan_attention(batch, report.multiprocessors());
  const DeviceArray<float> scratch(cuda::attention_scratch(batch, plan));
  const double heads_bytes = 2.0 * tokens * h.q * h.dim * sizeof(float);  // queries in, results out
  const double tokens_read = static_cast<double>(w.rows) * w.context;
  report.add(name + " " + name_of(plan.kernel) + "/" + std::to_string(plan.splits),
             tokens_read * h.kv * h.dim * 2 * 2 + heads_bytes,
             4.0 * tokens * h.q * h.dim * (w.context - w.q_len / 2.0),
             [&] { cuda::attention(batch, plan, scratch.data(), report.stream().cuda()); });
}

void vision(GpuReport& report, int tokens, int segment, int heads, int dim,
            ops::Products products) {
  const bool f32 = products == ops::Products::f32;
  const std::string name = std::string(f32 ? "f32 " : "bf16 ") + std::to_string(tokens) +
                           " tokens in " + std::to_string(segment) + "s, " + std::to_string(heads) +
                           " heads of " + std::to_string(dim);
  if (!report.wants(name)) return;
  std::vector<std::int32_t> cu;
  for (int t = 0; t <= tokens; t += segment) cu.push_back(t);
  const DeviceArray<std::int32_t> segments(cu);
  const std::size_t width = static_cast<std::size_t>(heads) * dim;
  const DeviceArray<float> qkv(random_floats(3 * width * tokens)), out(width * tokens);
  const cuda::SegmentBatch batch{
      qkv.data(), out.data(), tokens, heads, dim, segments.data(), static_cast<int>(cu.size()) - 1,
      segment,    products};
  const DeviceArray<char> scratch(cuda::segment_scratch(batch));
  report.add(name, 4.0 * sizeof(float) * static_cast<double>(width) * tokens,
             4.0 * static_cast<double>(width) * tokens * segment,
             [&] { cuda::segment_attention(batch, scratch.data(), report.stream().cuda()); });
}

}  // namespace

int main(int argc, char** argv) try {
  GpuReport report(parse(argc, argv, "Attention on the GPU by heads, queries and context"));
  for (const Model& m : kModels) {
    report.calibrate(std::string(m.name) + " decode");
    for (const int rows : {1, 4, 16})
      for (const int context : {1024, 8192, 32768}) paged(report, m, {rows, 1, context});
    paged(report, m, {1, 5, 8192});  // a token-level draft under verification
    report.calibrate(std::string(m.name) + " chunks");
    for (const int context : {1024, 8192}) {
      paged(report, m, {4, 20, context});
      paged(report, m, {4, 150, context});
    }
    paged(report, m, {1, 2048, 2048});
    paged(report, m, {1, 2048, 16384});
  }
  report.calibrate("vision");
  for (const auto products : {ops::Products::bf16, ops::Products::f32}) {
    vision(report, 4096, 4096, 16, 64, products);
    vision(report, 4096, 4096, 16, 72, products);
    vision(report, 4096, 64, 16, 80, products);
  }
} catch (const Error& e) {
  std::fprintf(stderr, "%s\n", e.what());
  return 1;
}
