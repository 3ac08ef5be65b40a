#include "tile_model.h"

#include "common.h"

using namespace dream_r;
using namespace dream_r::test;

namespace {

// One row of x against a panel with weights in its column 0.
float dot(std::vector<float> x, std::vector<float> w, float start = 0) {
  const auto pairs = static_cast<int>(x.size() / 2);
  cpu::TileConfig config;
  config.set(0, 1, 64);
  config.set(1, 1, pairs * 4);
  config.set(2, pairs, 64);
  std::vector<bf16> a, b(x.size() / 2 * 32);
  for (const float v : x) a.emplace_back(v);
  for (std::size_t i = 0; i < w.size(); ++i) b[i / 2 * 32 + i % 2] = bf16(w[i]);
  ModelTiles tiles(config);
  float c[16] = {start};
  tiles.load<0>(c, 64);
  tiles.load<1>(a.data(), 64);
  tiles.load<2>(b.data(), 64);
  tiles.dot<0, 1, 2>();
  tiles.store<0>(c, 64);
  return c[0];
}

}  // namespace

TEST_CASE("the model of a tile product sums in the published order") {
  CHECK(dot({1, 2, 3, 4}, {5, 6, 7, 8}, 9) == 79.0f);
  // Even and odd elements are summed apart: in one chain 1 would be lost beside 2^24.
  CHECK(dot({0x1p24f, 1, 0, 1}, {1, 1, 0, 1}) == 0x1p24f + 2.0f);
  CHECK(dot({0x1p24f, 0, 1, 1}, {1, 0, 1, 0}) == 0x1p24f);
  // Sums begin at zero and meet the old value last: 2^24 + 1 + 1 would stay 2^24.
  CHECK(dot({1, 1}, {1, 1}, 0x1p24f) == 0x1p24f + 2.0f);
  CHECK(dot({1, 0, 1, 0}, {1, 0, 1, 0}, 0x1p24f) == 0x1p24f + 2.0f);
  // Ties go to even.
  CHECK(dot({1, 0, 0x1p-24f, 0}, {1, 0, 1, 0}) == 1.0f);
  CHECK(dot({1, 0, 0x1p-24f, 0}, {1, 0, 3, 0}) == 1.0f + 0x1p-22f);
}

TEST_CASE("the model of a tile product knows no denormals") {
  CHECK(dot({0x1p-127f, 0}, {0x1p100f, 0}) == 0.0f);                  // of the input
  CHECK(dot({0x1p-70f, 0}, {0x1p-70f, 0}) == 0.0f);                   // of a product
  CHECK(dot({0, 0}, {0, 0}, 0x1p-127f) == 0.0f);                      // of the sum so far
  CHECK(dot({0x1p-63f, 0}, {0x1p-63f, 0}) == 0x1p-126f);              // the least that stays
  CHECK(dot({0x1p-63f, 0x1p-63f}, {0x1p-63f, -0x1.8p-63f}) == 0.0f);  // of a difference
  CHECK(dot({0x1p-64f, 0, 1, 0}, {0x1p-64f, 0, 0x1p-125f, 0}) == 0x1p-125f);
  CHECK(!std::signbit(dot({0x1p-70f, 0}, {-0x1p-70f, 0}, -0.0f)));
}

TEST_CASE("the model refuses what the instructions refuse") {
  cpu::TileConfig config;
  config.set(0, 2, 64);
  config.set(1, 1, 64);
  config.set(2, 16, 64);
  ModelTiles tiles(config);
  CHECK(rejects("tiles", [&] { tiles.dot<0, 1, 2>(); }));
  CHECK(rejects("tiles", [&] { tiles.zero<3>(); }));
  config.set(3, 17, 64);
  CHECK(rejects("tiles", [&] { ModelTiles wrong(config); }));
}

// Where this machine has AMX: the kernel on its tiles and on their model give the same bits.
TEST_CASE("the instructions do what the model does") {
  const auto& best = *cpu::isa_tables().back();
  if (std::string(best.name) != "amx") {
    MESSAGE("no AMX here: the instructions were not run");
    return;
  }
  Random r;
  Stream s(2);
  for (const int k : {1, 31, 32, 70, 1024})
    for (const int n : {16, 35, 80})
      for (const int rows : {1, 15, 16, 17, 32, 33, 70}) {
        const Tensor x = r.tensor({rows, k}), m = r.tensor({n, k});
        const LinearWeight w = pack_linear(s, std::span(&m, 1), WeightFormat::bf16);
        Tensor real = filled({rows, n}, NAN), model = filled({rows, n}, NAN);
        {
          cpu::IsaScope scope(best);
          ops::linear(s, x, w, real);
        }
        cpu::IsaScope scope(portable_tiles());
        ops::linear(s, x, w, model);
        CAPTURE(k);
        CAPTURE(n);
        CAPTURE(rows);
        CHECK(same_bits(real, model));
      }
}
