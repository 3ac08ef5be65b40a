#if defined(__x86_64__)
#include "ops/cpu/vec_avx2.h"
#define DR_TABLE kAvx2
#define DR_NAME "avx2"
#include "ops/cpu/table.inl"
#endif
