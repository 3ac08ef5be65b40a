#include "core/cores.h"

#if defined(__linux__)
#include <sched.h>
#endif

namespace dream_r {

#if defined(__linux__)
int this_core() { return sched_getcpu(); }

void leave_core(int core) {
  cpu_set_t all;
  if (core < 0 || core >= CPU_SETSIZE || sched_getaffinity(0, sizeof all, &all) != 0) return;
  cpu_set_t others = all;
  CPU_CLR(core, &others);
  if (CPU_COUNT(&others) == 0 || sched_setaffinity(0, sizeof others, &others) != 0) return;
  sched_setaffinity(0, sizeof all, &all);
}
#else
int this_core() { return -1; }
void leave_core(int) {}
#endif

}  // namespace dream_r
