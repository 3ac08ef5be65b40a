#pragma once
// What the towers of Qwen2.5-VL and Qwen3-VL share: patches in merge order (blocks of merge x merge
// patches, blocks in raster order, frame after frame), turned by their row and column.
#include <span>
#include <vector>

#include "model/config.h"
#include "model/positions.h"

namespace dream_r {

// fn(n, row, column) for the patches of one frame in merge order.
template <class F>
void for_patches(const Grid& grid, int merge, F&& fn) {
  std::int64_t n = 0;
  for (int by = 0; by < grid[1]; by += merge)
    for (int bx = 0; bx < grid[2]; bx += merge)
      for (int y = by; y < by + merge; ++y)
        for (int x = bx; x < bx + merge; ++x) fn(n++, y, x);
}

// f32 [N, dim / 2]: the first half turns by the patch's row, the second by its column.
struct PatchAngles {
  Tensor cos, sin;
};
PatchAngles patch_angles(const Grid& grid, const VisionConfig& config);
PatchAngles copy_to(Stream& stream, const PatchAngles& angles, Device device);

// Patches of every image; Error when a grid does not divide or does not fit `patches`.
std::vector<std::int64_t> count_patches(const Tensor& patches, std::span<const Grid> grids,
                                        const VisionConfig& config);

}  // namespace dream_r
