#pragma once
// AMX: eight tile registers of up to 16 rows of 64 bytes. A kernel over tiles is a template over a
// class with these members; the other such class is the model of the instructions in the tests,
// which runs on any machine.
//   Tiles(config)                    loads the configuration; the destructor gives the tiles back
//   zero<T>(), load<T>(p, stride), store<T>(p, stride)      rows `stride` bytes apart
//   dot<C, A, B>()                   TDPBF16PS: for every row i of A and column j of B, from zero,
//     even = sum over pairs p of A[i][2p] B[p][2j], odd = the same of 2p+1 and 2j+1 (each a chain
//     of FMAs in f32, p ascending), then C[i][j] += even + odd. Rounding is to nearest even,
//     denormals count as zero on input and become zero on output, whatever MXCSR says.
//     (Intel 64 Software Developer's Manual, volume 2, TDPBF16PS)
#include <cstdint>

namespace dream_r::cpu {
namespace {

// The operand of LDTILECFG.
struct alignas(64) TileConfig {
  std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
  std::uint16_t row_bytes[16] = {};
  std::uint8_t rows[16] = {};
  void set(int tile, int tile_rows, int bytes) {
    rows[tile] = static_cast<std::uint8_t>(tile_rows);
    row_bytes[tile] = static_cast<std::uint16_t>(bytes);
  }
};
static_assert(sizeof(TileConfig) == 64);

#if defined(__x86_64__)
// Assembly, not intrinsics: those of some compilers (gcc 12) do not say that a load reads memory,
// and take no template argument for a register.
class HardwareTiles {
 public:
  explicit HardwareTiles(const TileConfig& config) {
    asm volatile("ldtilecfg %0" ::"m"(config) : "memory");
  }
  ~HardwareTiles() { asm volatile("tilerelease" ::: "memory"); }
  HardwareTiles(const HardwareTiles&) = delete;
  HardwareTiles& operator=(const HardwareTiles&) = delete;

  template <int T>
  void zero() {
    asm volatile("tilezero %%tmm%c0" ::"i"(T));
  }
  template <int T>
  void load(const void* p, std::int64_t stride) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(p), "r"(stride), "i"(T) : "memory");
  }
  template <int T>
  void store(void* p, std::int64_t stride) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(p), "r"(stride), "i"(T) : "memory");
  }
  template <int C, int A, int B>
  void dot() {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(C), "i"(A), "i"(B));
  }
};
#endif

}  // namespace
}  // namespace dream_r::cpu
