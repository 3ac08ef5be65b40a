#pragma once
// Vision towers: pictures cut into patches -> the features that stand for their image tokens. One
// file per tower; which one a checkpoint has is VisionConfig::kind.
#include <memory>
#include <span>

#include "core/stream.h"
#include "model/batch.h"
#include "model/config.h"
#include "model/positions.h"

namespace dream_r {

class Loader;

class VisionTower {
 public:
  virtual ~VisionTower() = default;
  // patches: f32 [N, D] of all pictures of a prompt in turn, as the tower's image processor orders
  // them; Error when they do not fit the grids.
  virtual ImageFeatures encode(Stream& stream, const Tensor& patches,
                               std::span<const Grid> grids) const = 0;
  virtual std::size_t weight_bytes() const = 0;
};

std::unique_ptr<const VisionTower> load_qwen3_vision(Loader& load, const VisionConfig& config);
std::unique_ptr<const VisionTower> load_qwen2_5_vision(Loader& load, const VisionConfig& config);
std::unique_ptr<const VisionTower> load_siglip_vision(Loader& load, const VisionConfig& config);

}  // namespace dream_r
