#if defined(__x86_64__)
#include "ops/cpu/vec_avx512.h"
#define DR_TABLE kAvx512
#define DR_NAME "avx512"
#include "ops/cpu/table.inl"
#endif
