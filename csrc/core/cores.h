#pragma once
// Which core a thread runs on. Schedulers are slow to part two threads that keep waking each other:
// they may share one core for milliseconds while another is idle.

namespace dream_r {

// The core that the calling thread runs on; -1 where that cannot be told.
int this_core();
// Moves the calling thread to another of the cores it may use, if there is one. It may come back:
// the cores it may use stay the same.
void leave_core(int core);

}  // namespace dream_r
