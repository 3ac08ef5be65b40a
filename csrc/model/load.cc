// Where weights come from: a checkpoint on disk, or numbers made up in memory.
#include <algorithm>
#include <set>

#include "model/loader.h"
#include "model/random_source.h"
#include "model/safetensors.h"
#include "model/vl_model.h"

namespace dream_r {
namespace {

class CheckpointSource final : public WeightSource {
 public:
  explicit CheckpointSource(const std::filesystem::path& folder, bool headers_only = false)
      : checkpoint_(folder), headers_only_(headers_only) {}

  bool headers_only() const override { return headers_only_; }
  bool has(const std::string& name) const override { return checkpoint_.has(name); }
  std::string label(const std::string& name) const override {
    return checkpoint_.where() + ": tensor " + name;
  }
  Tensor get(const std::string& name, const Shape& shape) override {
    Tensor t = take(name, shape);
    DR_CHECK(t.dtype() == DType::f32 || t.dtype() == DType::bf16 || t.dtype() == DType::f16)
        << label(name) << " is " << name_of(t.dtype()) << ", f32, bf16 or f16 wanted";
    return t;
  }
  Tensor integers(const std::string& name, const Shape& shape, DType dtype) override {
    Tensor t = take(name, shape);
    DR_CHECK(t.dtype() == dtype) << label(name) << " is " << name_of(t.dtype()) << ", "
                                 << name_of(dtype) << " wanted";
    return t;
  }
  Shape shape(const std::string& name) const override {
    return Shape(std::span<const std::int64_t>(checkpoint_.entry(name).shape));
  }
  void ignore(const std::string& prefix) override { ignored_.push_back(prefix); }
  void drop(const std::string& name) override { checkpoint_.drop(name); }

  // A tensor nobody asked for (a bias, an adapter, a fourth DeepStack level) is computation left
  // out.
  void check_all_used(bool tied_head) const {
    for (const std::string& name : checkpoint_.names()) {
      const bool known =
          (tied_head && name.ends_with("lm_head.weight")) ||
          name.ends_with("rotary_emb.inv_freq") ||
          std::any_of(ignored_.begin(), ignored_.end(),
                      [&name](const std::string& prefix) { return name.starts_with(prefix); });
      DR_CHECK(known || used_.contains(name)) << label(name) << " is not understood";
    }
  }

 private:
  Tensor take(const std::string& name, const Shape& shape) {
    Tensor t = checkpoint_.get(name);
    DR_CHECK(t.shape() == shape) << label(name) << " is " << t.shape().str()
                                 << ", config.json wants " << shape.str();
    used_.insert(name);
    return t;
  }

  Checkpoint checkpoint_;
  bool headers_only_;
  std::set<std::string> used_;
  std::vector<std::string> ignored_;
};

WeightFormat format_of(const LoadOptions& options) {
  if (options.dtype == DType::f32) return WeightFormat::f32;
  if (options.dtype == DType::bf16) return WeightFormat::bf16;
  if (options.dtype == DType::i16) {
    DR_CHECK(!options.device.on_cuda()) << "dtype i16 is for the CPU: use bf16 or f16 on a GPU";
    return WeightFormat::i16;
  }
  DR_CHECK(options.dtype == DType::f16) << "weights in " << name_of(options.dtype)
                                        << " are not supported, f32, bf16, f16 or i16 wanted";
  DR_CHECK(options.device.on_cuda()) << "dtype f16 is for CUDA devices: use bf16 or f32 on the CPU";
  return WeightFormat::f16;
}

std::unique_ptr<const VisionTower> load_vision(Loader& load, const VisionConfig& config) {
  switch (config.kind) {
    case VisionKind::qwen3:
      return load_qwen3_vision(load, config);
    case VisionKind::qwen2_5:
      return load_qwen2_5_vision(load, config);
    case VisionKind::siglip:
      return load_siglip_vision(load, config);
  }
  return nullptr;
}

std::shared_ptr<const Model> build(const ModelConfig& config, WeightSource& source,
                                   const LoadOptions& options) {
  Stream stream(options.threads), home(options.device);
  Loader load(source, format_of(options), stream, home, config.quantization);
  TextWeights text = load_text(load, config.text);
  std::unique_ptr<const VisionTower> vision;
  if (config.vision.depth > 0) vision = load_vision(load, config.vision);
  home.wait();  // other streams read what this one writes
  return std::make_shared<VlModel>(config, std::move(text), std::move(vision));
}

}  // namespace

std::shared_ptr<const Model> load_model(const std::filesystem::path& folder,
                                        const LoadOptions& options) {
  const ModelConfig config = read_config(folder);
  CheckpointSource source(folder);
  auto model = build(config, source, options);
  source.check_all_used(config.text.tied_head);
  return model;
}

void check_model(const std::filesystem::path& folder) {
  const ModelConfig config = read_config(folder);
  CheckpointSource source(folder, true);
  build(config, source, {});
  source.check_all_used(config.text.tied_head);
}

std::shared_ptr<const Model> random_model(const ModelConfig& config, const LoadOptions& options,
                                          std::uint32_t seed) {
  RandomSource source(seed);
  return build(config, source, options);
}

}  // namespace dream_r
