// Included after a vec_<isa>.h with DR_BASE, the table of those vectors, DR_NAME and DR_MODEL
// defined: that table with the kernels over tiles on the model of AMX.
#include <utility>

#include "tile_model.h"

namespace dream_r::cpu {
namespace {
#include "ops/cpu/math.inl"
// Order matters: each may use what stands above it.
#include "ops/cpu/linear_blocks.inl"
#include "ops/cpu/linear_tiles.inl"

static void unpack_step(const std::uint32_t* heads, const std::uint32_t* words,
                        std::uint16_t* tile) {
  for (int pair = 0; pair < 16; ++pair)
    for (int row = 0; row < 16; ++row)
      for (int half = 0; half < 2; ++half) {
        const int q = words[pair / 4 * 16 + row] >> 4 * (pair % 4 + 4 * half) & 15;
        const auto value = static_cast<float>(q - static_cast<int>(heads[row] & 15));
        std::uint32_t bits;
        std::memcpy(&bits, &value, 4);
        tile[pair * 32 + row * 2 + half] = static_cast<std::uint16_t>(bits >> 16);
      }
}

#include "ops/cpu/linear_tiles_w4.inl"
}  // namespace
}  // namespace dream_r::cpu

const dream_r::cpu::Kernels& dream_r::test::DR_MODEL() {
  static const cpu::Kernels table =
      cpu::with_linear(cpu::DR_BASE, DR_NAME,
                       {cpu::linear_tiles<cpu::Bf16Tiles, ModelTiles>, cpu::bf16_row,
                        cpu::kTileElements, 2, 0, cpu::kTwoTiles, cpu::kTileMaddsPerNs},
                       {cpu::linear_tiles<cpu::W4Tiles, ModelTiles>, cpu::bf16_row_w4,
                        cpu::kTileElements, 2, 0, cpu::kTwoTiles, cpu::kTileMaddsPerNs});
  return table;
}
