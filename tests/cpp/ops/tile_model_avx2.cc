#if defined(__x86_64__)
#include "ops/cpu/vec_avx2.h"
#define DR_BASE kAvx2
#define DR_NAME "avx2, model of amx"
#define DR_MODEL avx2_tiles
#include "tile_table.inl"
#endif
