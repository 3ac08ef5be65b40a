#include "ops/cpu/vec_portable.h"
#define DR_TABLE kPortable
#define DR_NAME "portable"
#include "ops/cpu/table.inl"
