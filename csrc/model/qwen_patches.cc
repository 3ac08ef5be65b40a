#include "model/qwen_patches.h"

#include <cmath>

#include "core/check.h"
#include "model/layers.h"
#include "ops/ops.h"

namespace dream_r {

PatchAngles patch_angles(const Grid& grid, const VisionConfig& c) {
  constexpr double kTheta = 10000.0;
  const int half = c.hidden / c.heads / 2, quarter = half / 2;
  const std::vector<float> freq = inverse_frequencies(kTheta, half);
  const std::int64_t frame = std::int64_t{grid[1]} * grid[2], n = frame * grid[0];
  PatchAngles a{Tensor::empty({n, half}, DType::f32), Tensor::empty({n, half}, DType::f32)};
  for (int t = 0; t < grid[0]; ++t)
    for_patches(grid, c.merge, [&](std::int64_t i, int y, int x) {
      const std::int64_t row = frame * t + i;
      for (int k = 0; k < half; ++k) {
        const float angle = static_cast<float>(k < quarter ? y : x) * freq[k % quarter];
        a.cos.f32()[row * half + k] = std::cos(angle);
        a.sin.f32()[row * half + k] = std::sin(angle);
      }
    });
  return a;
}

PatchAngles copy_to(Stream& stream, const PatchAngles& angles, Device device) {
  return {ops::copy_to(stream, angles.cos, device), ops::copy_to(stream, angles.sin, device)};
}

std::vector<std::int64_t> count_patches(const Tensor& patches, std::span<const Grid> grids,
                                        const VisionConfig& c) {
  std::vector<std::int64_t> counts;
  std::int64_t total = 0;
  for (const Grid& grid : grids) {
    counts.push_back(visual_tokens(grid, c) * c.merge * c.merge);
    total += counts.back();
  }
  const std::int64_t size = std::int64_t{c.channels} * c.temporal_patch * c.patch * c.patch;
  DR_CHECK(patches.dtype() == DType::f32 && patches.shape() == Shape({total, size}))
      << "patches " << name_of(patches.dtype()) << patches.shape().str() << ", the grids want f32["
      << total << ", " << size << "]";
  return counts;
}

}  // namespace dream_r
