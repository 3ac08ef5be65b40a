#include "model/positions.h"

#include "doctest.h"
#include "files.h"

using namespace dream_r;
using test::error_of;
using test::has;

namespace {

ModelConfig config() {
  ModelConfig c;
  c.vision.merge = 2;
  c.image_token = 5;
  c.video_token = 6;
  return c;
}

PromptPositions positions(const std::vector<std::int32_t>& ids, const std::vector<Grid>& grids) {
  return prompt_positions(ids, grids, config());
}

std::string refused(const std::vector<std::int32_t>& ids, const std::vector<Grid>& grids) {
  return error_of([&] { positions(ids, grids); });
}

}  // namespace

TEST_CASE("positions: text alone") {
  const auto p = positions({1, 2, 3}, {});
  CHECK(p.positions == std::vector<Position>{{0, 0, 0}, {1, 1, 1}, {2, 2, 2}});
  CHECK(p.feature_rows == std::vector<std::int32_t>{-1, -1, -1});
  CHECK(p.delta == 0);
}

TEST_CASE("positions: an image spreads over height and width, text goes on from the larger side") {
  // 4 x 6 patches = 2 x 3 tokens after one text token.
  const auto p = positions({1, 5, 5, 5, 5, 5, 5, 2}, {{1, 4, 6}});
  CHECK(
      p.positions ==
      std::vector<Position>{
          {0, 0, 0}, {1, 1, 1}, {1, 1, 2}, {1, 1, 3}, {1, 2, 1}, {1, 2, 2}, {1, 2, 3}, {4, 4, 4}});
  CHECK(p.feature_rows == std::vector<std::int32_t>{-1, 0, 1, 2, 3, 4, 5, -1});
  CHECK(p.delta == 5 - 8);
}

TEST_CASE("positions: feature rows run on over the images of a prompt") {
  const auto p = positions({5, 1, 5, 5}, {{1, 2, 2}, {1, 4, 2}});
  CHECK(p.feature_rows == std::vector<std::int32_t>{0, -1, 1, 2});
  CHECK(p.positions[3] == Position{2, 3, 2});
  CHECK(p.delta == 0);
}

TEST_CASE("positions: prompts and images that do not fit are refused") {
  CHECK(has(refused({1, 5, 2}, {}), "only 0 images"));
  CHECK(has(refused({1, 2}, {{1, 2, 2}}), "1 images given"));
  CHECK(has(refused({5, 5, 1}, {{1, 4, 4}}), "needs 4 image tokens, the prompt has 2"));
  CHECK(has(refused({5, 5}, {{1, 2, 2}}), "only 1 images"));
  CHECK(has(refused({1, 6}, {}), "videos are not supported"));
  CHECK(has(refused({5}, {{1, 3, 2}}), "multiples of 2"));
  CHECK(has(refused({5}, {{0, 2, 2}}), "multiples of 2"));
  CHECK(has(refused({5}, {{1 << 30, 1 << 30, 1 << 30}}), "multiples of 2"));
}
