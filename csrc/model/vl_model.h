#pragma once
#include <memory>
#include <vector>

#include "model/model.h"
#include "model/plan.h"
#include "model/vision.h"
#include "model/weights.h"

namespace dream_r {

// A text decoder and, where it reads pictures, a vision tower (else null).
class VlModel final : public Model {
 public:
  VlModel(ModelConfig config, TextWeights text, std::unique_ptr<const VisionTower> vision);
  const ModelConfig& config() const override { return config_; }
  ForwardResult forward(Stream& stream, Arena& arena, KvStore& kv, const Batch& batch,
                        const LinearWeight& keywords, Graphs* graphs) const override;
  Tensor late_logits(Stream& stream, Arena& arena, KvStore& kv, const ForwardResult& result,
                     std::span<const LogitsWanted> wanted) const override;
  ImageFeatures encode_images(Stream& stream, const Tensor& patches,
                              std::span<const std::array<std::int32_t, 3>> grid) const override;
  LinearWeight keyword_head(std::span<const std::int32_t> ids) const override;
  std::size_t weight_bytes() const override;
  KvShape kv_shape() const override;
  Device device() const override;

 private:
  ForwardResult compute(Stream& stream, Arena& arena, KvStore& kv, const Batch& batch,
                        const LinearWeight& keywords, Graphs* graphs) const;
  ForwardResult run(Stream& stream, Arena& arena, KvStore& kv, const Plan& plan,
                    const LinearWeight& keywords) const;

  ModelConfig config_;
  TextWeights text_;
  std::unique_ptr<const VisionTower> vision_;
  std::vector<float> inv_freq_;
};

// A model of the given shape with random weights (normal, deviation 0.02), for benchmarks and
// tests. vision.depth 0 leaves the tower out.
std::shared_ptr<const Model> random_model(const ModelConfig& config, const LoadOptions& options,
                                          std::uint32_t seed = 1);

}  // namespace dream_r
