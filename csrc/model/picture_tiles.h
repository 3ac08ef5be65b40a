#pragma once
// How R-4B sees a picture (the scheme of LLaVA-OneVision): once whole, scaled to a square tile; and
// once fitted into the best of a list of resolutions, cut into tiles. Of the second the tokens over
// padding are dropped, the rest shrunk when they are too many, and every row ends in a newline.
#include <cstdint>

#include "model/batch.h"
#include "model/config.h"
#include "model/positions.h"

namespace dream_r {

// Every token of a picture as a mixture of four rows of a table: its tiles' features, side * side
// rows a tile (the whole picture first), then one row for the newline.
struct TileTaps {
  Tensor index, weight;  // i32, f32 [tokens, 4]
};

// Of a picture with grid (tiles, height, width): its tiles (the whole picture counts as one), and
// its size in pixels. Error when the tiles are not those of the size.
std::int64_t tile_tokens(const Grid& grid, const VisionConfig& config);
TileTaps tile_taps(const Grid& grid, const VisionConfig& config);

}  // namespace dream_r
