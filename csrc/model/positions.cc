#include "model/positions.h"

#include <algorithm>

#include "core/check.h"
#include "model/picture_tiles.h"

namespace dream_r {
namespace {

constexpr std::int64_t kMaxPatches = std::int64_t{1} << 24;  // of one image; far above any real one

class Walker {
 public:
  Walker(std::span<const std::int32_t> ids, const ModelConfig& config)
      : ids_(ids), config_(config) {
    out_.positions.reserve(ids.size());
    out_.feature_rows.reserve(ids.size());
  }

  void text() {
    DR_CHECK(ids_[at()] != config_.video_token)
        << "token " << at() << " is a video token: videos are not supported";
    put({next_, next_, next_}, -1);
    ++next_;
  }

  void image(const Grid& grid) {
    const int merge = config_.vision.merge;
    const std::int64_t count = visual_tokens(grid, config_.vision);
    check_run(count);
    if (config_.vision.kind == VisionKind::siglip) {
      for (std::int64_t i = 0; i < count; ++i, ++next_) put({next_, next_, next_}, feature_++);
      return;
    }
    const std::int32_t start = next_;
    for (std::int32_t t = 0; t < grid[0]; ++t)
      for (std::int32_t h = 0; h < grid[1] / merge; ++h)
        for (std::int32_t w = 0; w < grid[2] / merge; ++w)
          put({start + t, start + h, start + w}, feature_++);
    next_ = start + std::max(grid[1], grid[2]) / merge;
  }

  std::size_t at() const { return out_.positions.size(); }

  PromptPositions finish() {
    out_.delta = most_ + 1 - static_cast<std::int32_t>(ids_.size());
    return std::move(out_);
  }

 private:
  void check_run(std::int64_t count) const {
    for (std::int64_t i = 0; i < count; ++i) {
      const std::size_t j = at() + static_cast<std::size_t>(i);
      DR_CHECK(j < ids_.size() && ids_[j] == config_.image_token)
          << "the image at token " << at() << " needs " << count << " image tokens, the prompt has "
          << i;
    }
  }
  void put(Position p, std::int32_t row) {
    out_.positions.push_back(p);
    out_.feature_rows.push_back(row);
    most_ = std::max({most_, p[0], p[1], p[2]});
  }

  std::span<const std::int32_t> ids_;
  const ModelConfig& config_;
  PromptPositions out_;
  std::int32_t next_ = 0;
  std::int32_t feature_ = 0;
  std::int32_t most_ = -1;
};

}  // namespace

std::int64_t visual_tokens(const Grid& grid, const VisionConfig& config) {
  if (config.kind == VisionKind::siglip) return tile_tokens(grid, config);
  const int merge = config.merge;
  const std::int64_t t = grid[0], h = grid[1], w = grid[2];
  DR_CHECK(t > 0 && h > 0 && w > 0 && h % merge == 0 && w % merge == 0 && t <= kMaxPatches &&
           h <= kMaxPatches && w <= kMaxPatches && h * w <= kMaxPatches && t * h * w <= kMaxPatches)
      << "image grid (" << t << ", " << h << ", " << w << "): sides must be positive multiples of "
      << merge << " and the patches at most " << kMaxPatches;
  return t * h * w / (merge * merge);
}

PromptPositions prompt_positions(std::span<const std::int32_t> ids, std::span<const Grid> grids,
                                 const ModelConfig& config) {
  Walker walk(ids, config);
  std::size_t image = 0;
  while (walk.at() < ids.size()) {
    if (ids[walk.at()] != config.image_token) {
      walk.text();
      continue;
    }
    DR_CHECK(image < grids.size()) << "token " << walk.at() << " is an image token, but only "
                                   << grids.size() << " images are given";
    walk.image(grids[image++]);
  }
  DR_CHECK(image == grids.size()) << grids.size() << " images given, the prompt has room for "
                                  << image;
  return walk.finish();
}

}  // namespace dream_r
