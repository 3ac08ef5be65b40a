// Whether this process may use AMX: its tiles are 8 KiB of registers that Linux saves for a process
// only once it has asked (arch_prctl(2), since 5.16).
#if defined(__x86_64__)
#include <cpuid.h>

#include "ops/cpu/kernels.h"

#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace dream_r::cpu {
namespace {

bool processor_has_amx() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  constexpr unsigned kTile = 1u << 24, kBf16 = 1u << 22;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d & kTile) && (d & kBf16);
}

// The system saves and restores the tile configuration and the tiles (bits 17 and 18 of XCR0).
bool system_saves_tiles() {
  unsigned a = 0, b = 0, c = 0, d = 0, low = 0, high = 0;
  constexpr unsigned kOsxsave = 1u << 27, kTiles = 3u << 17;
  if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & kOsxsave)) return false;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (low & kTiles) == kTiles;
}

bool system_permits() {
#if defined(__linux__)
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // asm/prctl.h of newer headers
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

}  // namespace

bool amx_permitted() {
  static const bool permitted = processor_has_amx() && system_saves_tiles() && system_permits();
  return permitted;
}

}  // namespace dream_r::cpu
#endif
