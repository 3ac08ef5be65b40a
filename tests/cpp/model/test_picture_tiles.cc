#include "doctest.h"
#include "files.h"
#include "model/picture_tiles.h"
#include "model/positions.h"

using namespace dream_r;
using test::error_of;
using test::has;

namespace {

// Tiles of 2 x 2 patches of 4 pixels; a pixel of each side is left over.
ModelConfig config(int max_tiles = 9) {
  ModelConfig c;
  c.vision.kind = VisionKind::siglip;
  c.vision.merge = 1;
  c.vision.image = 9;
  c.vision.patch = 4;
  c.vision.max_tiles = max_tiles;
  c.vision.pinpoints = {{9, 9}, {9, 18}, {18, 18}};
  c.image_token = 5;
  return c;
}

std::vector<int> first_taps(const Grid& grid, int max_tiles = 9) {
  const TileTaps t = tile_taps(grid, config(max_tiles).vision);
  std::vector<int> rows;
  for (std::int64_t i = 0; i < t.index.dim(0); ++i)
    rows.push_back(t.index.data<std::int32_t>()[4 * i]);
  return rows;
}

}  // namespace

TEST_CASE("tiles: the whole picture, then rows across the tiles, each with a newline") {
  // Fits one tile beside another: rows 0-3 the whole, 4-7 the left tile, 8-11 the right, 12
  // newline.
  CHECK(first_taps({3, 9, 18}) == std::vector<int>{0, 1, 2, 3, 4, 5, 8, 9, 12, 6, 7, 10, 11, 12});
}

TEST_CASE("tiles: tokens over padding are dropped") {
  // Filled to three quarters, a row of padding above and below would leave less than the picture.
  CHECK(tile_tokens({3, 9, 24}, config().vision) == 4 + 2 * (4 + 1));
  CHECK(first_taps({5, 18, 9}) ==
        std::vector<int>{0, 1, 2, 3, 5, 8, 20, 7, 10, 20, 13, 16, 20, 15, 18, 20});
}

TEST_CASE("tiles: too many features are shrunk, each a mixture of four") {
  const TileTaps t = tile_taps({5, 18, 18}, config(1).vision);
  CHECK(t.index.dim(0) == 4 + 2 * (2 + 1));  // 4 x 4 features in the room of 2 x 2
  const std::int32_t* index = t.index.data<std::int32_t>() + 4 * 4;
  CHECK(std::vector<int>(index, index + 4) == std::vector<int>{4, 5, 6, 7});
  for (int k = 0; k < 4; ++k) CHECK(t.weight.f32()[4 * 4 + k] == 0.25f);
}

TEST_CASE("tiles: for R-4B an image's tokens have the positions of text") {
  std::vector<std::int32_t> ids{1};
  const auto n = tile_tokens({2, 9, 9}, config().vision);
  ids.insert(ids.end(), static_cast<std::size_t>(n), 5);
  ids.push_back(2);
  const auto p = prompt_positions(ids, std::vector<Grid>{{2, 9, 9}}, config());
  for (std::int32_t i = 0; i < static_cast<std::int32_t>(ids.size()); ++i) {
    CHECK(p.positions[i] == Position{i, i, i});
    CHECK(p.feature_rows[i] == (ids[i] == 5 ? i - 1 : -1));
  }
  CHECK(p.delta == 0);
}

TEST_CASE("tiles: pictures that cannot be are refused") {
  const auto refused = [](const Grid& grid) {
    return error_of([&] { tile_tokens(grid, config().vision); });
  };
  CHECK(has(refused({3, 9, 9}), "has 2 tiles, not 3"));
  CHECK(has(refused({2, 0, 9}), "0 x 9 pixels"));
  CHECK(has(refused({2, 9, 1 << 30}), "pixels"));
}
