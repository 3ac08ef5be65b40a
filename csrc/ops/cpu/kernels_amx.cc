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

// The bf16 values of -16 .. 15.
struct alignas(64) Integers {
  std::uint16_t of[32];
  constexpr Integers() : of() {
    for (int i = 0; i < 32; ++i)
      of[i] = static_cast<std::uint16_t>(
          __builtin_bit_cast(std::uint32_t, static_cast<float>(i - 16)) >> 16);
  }
};
constexpr Integers kIntegers;

// Bytes of q - z + 16 (1 .. 31, so that none borrows from its neighbour), then VPERMW, which looks
// at the low five bits of every 16 alone, as a table from them to bf16.
DR_INLINE void unpack_step(const std::uint32_t* heads, const std::uint32_t* words,
                           std::uint16_t* tile) {
  const __m512i low = _mm512_set1_epi32(0x0f0f0f0f), table = _mm512_load_si512(kIntegers.of);
  const __m512i first_byte = _mm512_set4_epi32(0x0c0c0c0c, 0x08080808, 0x04040404, 0);
  const __m512i head = _mm512_and_si512(_mm512_loadu_si512(heads), low);
  const __m512i zero = _mm512_shuffle_epi8(head, first_byte);
  const __m512i offset = _mm512_sub_epi32(_mm512_set1_epi32(0x10101010), zero);
  const auto put = [&](int pair, __m512i index) {
    _mm512_store_si512(tile + pair * 32, _mm512_permutexvar_epi16(index, table));
  };
#pragma GCC unroll 4
  for (int pair = 0; pair < 16; pair += 4) {
    const __m512i word = _mm512_loadu_si512(words + pair * 4);
    const __m512i even = _mm512_add_epi32(_mm512_and_si512(word, low), offset);
    const __m512i odd = _mm512_add_epi32(_mm512_and_si512(_mm512_srli_epi32(word, 4), low), offset);
    put(pair, even);
    put(pair + 1, odd);
    put(pair + 2, _mm512_srli_epi32(even, 8));
    put(pair + 3, _mm512_srli_epi32(odd, 8));
  }
}

#include "ops/cpu/linear_tiles_w4.inl"
}  // namespace

const LinearKernel kAmxLinearBf16 = {linear_tiles<Bf16Tiles, HardwareTiles>,
                                     bf16_row,
                                     kTileElements,
                                     2,
                                     0,
                                     kTwoTiles,
                                     kTileMaddsPerNs};
const LinearKernel kAmxLinearW4 = {linear_tiles<W4Tiles, HardwareTiles>,
                                   bf16_row_w4,
                                   kTileElements,
                                   2,
                                   0,
                                   kTwoTiles,
                                   kTileMaddsPerNs};

}  // namespace dream_r::cpu
#endif
