// Whole forwards of models with random weights: decode (bound by reading every weight once), a few
// sequences decoded together, and prefill. `read` is the share of the read rate measured in this
// run. The pocket models fit the caches: for them the figure to look at is the time.
#include <numeric>

#include "bench.h"
#include "model/vl_model.h"

using namespace dream_r;
using namespace dream_r::bench;

namespace {

ModelConfig text_model(int hidden, int layers, int heads, int kv_heads, int dim, int ffn,
                       int vocab) {
  ModelConfig c;
  c.model_type = "qwen3_vl";
  c.text.hidden = hidden;
  c.text.layers = layers;
  c.text.heads = heads;
  c.text.kv_heads = kv_heads;
  c.text.head_dim = dim;
  c.text.ffn = ffn;
  c.text.vocab = vocab;
  c.text.tied_head = true;
  const int side = dim / 2 * 5 / 16;  // 24, 20, 20 of 64
  c.text.mrope_sections = {dim / 2 - 2 * side, side, side};
  return c;
}

// The layers of Qwen3-VL-30B-A3B, as many as fit a small machine, with a small vocabulary: before
// so few layers its own head would be most of what is read.
ModelConfig experts_model(int layers) {
  ModelConfig c = text_model(2048, layers, 32, 4, 128, 768, 16384);
  c.model_type = "qwen3_vl_moe";
  c.text.moe = {.experts = 128, .per_token = 8, .ffn = 768};
  return c;
}

struct NamedModel {
  const char* name;
  ModelConfig config;
};

// A call of forward: `rows` sequences that have `context` tokens each and get `tokens` more.
struct Case {
  const char* what;
  int rows, tokens, context;
};
const Case kCases[] = {
    {"decode", 1, 1, 64},         {"decode", 1, 1, 1024},       {"decode 2 rows", 2, 1, 256},
    {"decode 4 rows", 4, 1, 256}, {"decode 8 rows", 8, 1, 256}, {"verify 12", 1, 12, 256},
    {"verify 16", 1, 16, 256},    {"verify 17", 1, 17, 256},    {"verify 40", 1, 40, 256},
    {"prefill 32", 1, 32, 256},   {"prefill 64", 1, 64, 256},   {"prefill 256", 1, 256, 256},
};

// Weights that a forward multiplies with for every token, the head left out.
double layer_weights(const TextConfig& t) {
  const double q = t.heads * t.head_dim, kv = t.kv_heads * t.head_dim, h = t.hidden;
  const bool moe = t.moe.experts > 0;
  const double mlp = moe ? h * t.moe.experts + 3 * h * t.moe.ffn * t.moe.per_token : 3 * h * t.ffn;
  return t.layers * (h * (q + 2 * kv) + q * h + mlp);
}

constexpr int kGroup = 128;

// Of the weights, those of the experts that one token does not choose.
double unread_bytes(const TextConfig& t, WeightFormat format) {
  const double bytes = format == WeightFormat::f32    ? 4
                       : format == WeightFormat::bf16 ? 2
                                                      : 0.5 + 4.0 / kGroup;
  const double unread = t.moe.experts - t.moe.per_token;
  return t.layers * unread * 3 * t.hidden * t.moe.ffn * bytes;
}

class Setup {
 public:
  Setup(const Model& model, DType dtype, const Case& c)
      : model_(model), kv_(shape(dtype), blocks(c)) {
    ids_.assign(static_cast<std::size_t>(c.tokens), 1);
    for (int i = 0; i < c.tokens; ++i)
      positions_.push_back({c.context + i, c.context + i, c.context + i});
    table_.resize(static_cast<std::size_t>(kv_.blocks()));
    std::iota(table_.begin(), table_.end(), 0);
    for (int layer = 0; layer < kv_.shape().layers; ++layer)
      for (const Tensor& t : {kv_.k(layer), kv_.v(layer)})
        std::memset(t.data<char>(), 0, t.nbytes());
    const int each = kv_.blocks() / c.rows;
    for (int r = 0; r < c.rows; ++r) {
      BatchRow row;
      row.tokens = ids_;
      row.positions = positions_;
      row.own = {table_.data() + r * each, c.context};
      batch_.rows.push_back(row);
      batch_.wanted.push_back({r, c.tokens - 1});
    }
  }
  // Another token each time, so that experts are chosen as a text chooses them.
  void forward(Stream& s) {
    for (auto& id : ids_) id = (id + 7919) % model_.config().text.vocab;
    model_.forward(s, arena_, kv_, batch_, {});
  }
  // Keys and values that one forward reads.
  double kv_bytes(const Case& c) const {
    return static_cast<double>(kv_.shape().block_bytes()) / KvStore::kBlock * c.rows *
           (c.context + c.tokens);
  }

 private:
  KvShape shape(DType dtype) const {
    const TextConfig& t = model_.config().text;
    return {t.layers, t.kv_heads, t.head_dim, dtype};
  }
  static int blocks(const Case& c) { return c.rows * ((c.context + c.tokens + 15) / 16); }

  const Model& model_;
  KvStore kv_;
  Arena arena_;
  std::vector<std::int32_t> ids_, table_;
  std::vector<Position> positions_;
  Batch batch_;
};

// w4: text layers in INT4, all else as in bf16.
constexpr WeightFormat kFormats[] = {WeightFormat::bf16, WeightFormat::w4, WeightFormat::f32};

bool can_quantise(const TextConfig& t) {
  return t.hidden % kGroup == 0 && t.heads * t.head_dim % kGroup == 0 && t.ffn % kGroup == 0;
}

void run(Report& report, Stream& s, NamedModel shape, WeightFormat format) {
  const char* names[] = {" f32", " bf16", " w4"};
  const std::string title = shape.name + std::string(names[static_cast<int>(format)]);
  const DType dtype = format == WeightFormat::f32 ? DType::f32 : DType::bf16;
  if (format == WeightFormat::w4) {
    if (!can_quantise(shape.config.text)) return;
    shape.config.quantization = {Quantization::Method::pack_quantized, kGroup, true};
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
  const double head = static_cast<double>(t.vocab) * t.hidden;
  report.calibrate(title);
  for (const auto& [name, c] : cases) {
    Setup setup(*model, dtype, c);
    Row r{.name = name, .time = measure(report.repeats(), [&] { setup.forward(s); })};
    r.bytes = static_cast<double>(model->weight_bytes()) + setup.kv_bytes(c);
    r.bytes -= unread_bytes(t, format);
    r.flops = 2.0 * c.rows * (c.tokens * layer_weights(t) + head);
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
      {"0.6B", text_model(1024, 28, 16, 8, 128, 3072, 151936)},
      {"2B", text_model(2048, 28, 16, 8, 128, 6144, 151936)},
      {"30B-A3B x 4 layers", experts_model(4)},
  };
  for (const auto& shape : shapes)
    for (const auto format : kFormats) run(report, s, shape, format);
  report.write();
}
