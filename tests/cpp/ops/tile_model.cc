#include "common.h"
#include "ops/cpu/vec_portable.h"
#define DR_BASE kPortable
#define DR_NAME "portable, model of amx"
#define DR_MODEL portable_tiles
#include "tile_table.inl"

std::vector<const dream_r::cpu::Kernels*> dream_r::test::tile_tables() {
  std::vector<const cpu::Kernels*> tables = {&portable_tiles()};
#if defined(__x86_64__)
  for (const auto* table : cpu::isa_tables())
    if (table == &cpu::kAvx2) tables.push_back(&avx2_tiles());
#endif
  return tables;
}
