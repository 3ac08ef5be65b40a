// Whole forwards of models with random weights: decode (bound by reading every weight once), a few
// sequences decoded together, and prefill. `read` is the share of the read rate measured in this
// run. The pocket models fit the caches: for them the figure to look at is the time.
#include "bench.h"
#include "forward.h"

using namespace dream_r;
using namespace dream_r::bench;

namespace {

const Case kCases[] = {
    {"decode", 1, 1, 64},         {"decode", 1, 1, 1024},       {"decode 2 rows", 2, 1, 256},
    {"decode 4 rows", 4, 1, 256}, {"decode 8 rows", 8, 1, 256}, {"verify 12", 1, 12, 256},
    {"verify 16", 1, 16, 256},    {"verify 17", 1, 17, 256},    {"verify 40", 1, 40, 256},
    {"prefill 32", 1, 32, 256},   {"prefill 64", 1, 64, 256},   {"prefill 256", 1, 256, 256},
};

// w4: text layers in INT4, all else as in bf16.
constexpr WeightFormat kFormats[] = {WeightFormat::bf16, WeightFormat::i16, WeightFormat::w4,
                                     WeightFormat::f32};

bool can_quantise(const TextConfig& t) {
  return t.hidden % kGroup == 0 && t.heads * t.head_dim % kGroup == 0 && t.ffn % kGroup == 0;
}

void run(Report& report, Stream& s, NamedModel shape, WeightFormat format) {
  const char* names[] = {" f32", " bf16", " w4", " f16", " i16"};
  const std::string title = shape.name + std::string(names[static_cast<int>(format)]);
  const DType dtype = format == WeightFormat::f32   ? DType::f32
                      : format == WeightFormat::i16 ? DType::i16
                                                    : DType::bf16;
  if (format == WeightFormat::w4) {
    if (!can_quantise(shape.config.text)) return;
    shape.config = quantised(shape.config);
  }
  std::vector<std::pair<std::string, Case>> cases;
  for (const Case& c : kCases) {
    const std::string name = title + " " + c.what + " at " + std::to_string(c.context);
    // Which experts several tokens share is the random weights' business.
    const bool counted = c.rows * c.tokens == 1 || shape.config.text.moe.experts == 0;
    if (counted && report.wants(name)) cases.emplace_back(name, c);
  }
  if (cases.empty()) return;
  const auto model = random_model(shape.config, {dtype, s.threads()});
  const TextConfig& t = shape.config.text;
  report.calibrate(title);
  for (const auto& [name, c] : cases) {
    Setup setup(*model, model->kv_shape().dtype, c);
    Row r{.name = name, .time = measure(report.repeats(), [&] { setup.forward(s); })};
    r.bytes = static_cast<double>(model->weight_bytes()) + setup.kv_bytes(c);
    r.bytes -= unread_bytes(t, format);
    r.flops = flops_of(t, c.rows * c.tokens, c.rows);
    const double tokens = c.rows * c.tokens / r.time.median;
    report.add(std::move(r));
    std::printf("%-40s %11.1f tokens/s\n", "", tokens);
  }
}

}  // namespace

int main(int argc, char** argv) {
  const Options o = parse(argc, argv, "Forwards of models with random weights");
  Stream s(o.threads);
  Report report(o, s);
  const NamedModel shapes[] = {
      {"pocket draft", text_model(96, 3, 4, 2, 32, 256, 544)},
      {"pocket target", text_model(256, 6, 8, 4, 32, 704, 544)},
      {"0.6B", qwen_model("0.6B")},
      {"2B", qwen_model("2B")},
      // As many layers as fit a small machine, and a small vocabulary: before so few layers its own
      // head would be most of what is read.
      {"30B-A3B x 4 layers", experts_model(2048, 4, 32, 4, 768, 16384, true)},
  };
  for (const auto& shape : shapes)
    for (const auto format : kFormats) run(report, s, shape, format);
  report.write();
}
