#pragma once
// M-RoPE positions of a prompt with images, as Qwen2.5-VL and Qwen3-VL count them: text advances
// all three axes together; an image's tokens share one time and spread over height and width, and
// the text after it goes on from the larger side. For R-4B an image's tokens count as text.
#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "model/batch.h"
#include "model/config.h"

namespace dream_r {

// Of an image: t, h, w in patches. Of R-4B: tiles, the whole picture included, and height and width
// in pixels.
using Grid = std::array<std::int32_t, 3>;

struct PromptPositions {
  std::vector<Position> positions;         // per token
  std::vector<std::int32_t> feature_rows;  // per token: row of ImageFeatures, or -1
  // The token at index i after the prompt has position i + delta on every axis.
  std::int32_t delta = 0;
};

// Visual tokens of an image. Error when its grid does not divide or fit.
std::int64_t visual_tokens(const Grid& grid, const VisionConfig& config);

PromptPositions prompt_positions(std::span<const std::int32_t> ids, std::span<const Grid> grids,
                                 const ModelConfig& config);

}  // namespace dream_r
