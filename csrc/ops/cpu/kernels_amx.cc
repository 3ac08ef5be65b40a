#if defined(__x86_64__)
#include <utility>

#include "ops/cpu/kernels.h"
#include "ops/cpu/tiles.h"
#include "ops/cpu/vec_avx512.h"

namespace dream_r::cpu {
namespace {
#include "ops/cpu/math.inl"
// Order matters: each may use what stands above it.
#include "ops/cpu/linear_blocks.inl"
#include "ops/cpu/linear_tiles.inl"
}  // namespace

const LinearKernel kAmxLinearBf16 = {
    linear_tiles<HardwareTiles>, bf16_row, kTileElements, 2, kTwoTiles, kTileMaddsPerNs};

}  // namespace dream_r::cpu
#endif
