#include "tile_model.h"

#include <utility>

#include "common.h"
#include "ops/cpu/vec_portable.h"

namespace dream_r::cpu {
namespace {
#include "ops/cpu/math.inl"
// Order matters: each may use what stands above it.
#include "ops/cpu/linear_blocks.inl"
#include "ops/cpu/linear_tiles.inl"
}  // namespace
}  // namespace dream_r::cpu

const dream_r::cpu::Kernels& dream_r::test::tile_model_table() {
  static const cpu::Kernels table =
      cpu::with_linear_bf16(cpu::kPortable, "amx model",
                            {cpu::linear_tiles<ModelTiles>, cpu::bf16_row, cpu::kTileElements, 2,
                             cpu::kTwoTiles, cpu::kTileMaddsPerNs});
  return table;
}
