// Moving to another core, and polling before sleeping.
#include "core/cores.h"
#include "core/spin.h"
#include "doctest.h"

#if defined(__linux__)
#include <sched.h>
#endif

using namespace dream_r;

#if defined(__linux__)
TEST_CASE("leaving a core: the cores that a thread may use stay the same") {
  cpu_set_t before, after;
  REQUIRE(sched_getaffinity(0, sizeof before, &before) == 0);
  for (const int core : {this_core(), -1, CPU_SETSIZE}) {
    leave_core(core);
    REQUIRE(sched_getaffinity(0, sizeof after, &after) == 0);
    CHECK(CPU_EQUAL(&before, &after));
  }
  CHECK(CPU_ISSET(this_core(), &before));
}

TEST_CASE("leaving the one core there is: the thread stays") {
  cpu_set_t all, one, after;
  REQUIRE(sched_getaffinity(0, sizeof all, &all) == 0);
  const int core = this_core();
  CPU_ZERO(&one);
  CPU_SET(core, &one);
  REQUIRE(sched_setaffinity(0, sizeof one, &one) == 0);
  leave_core(core);
  CHECK(this_core() == core);
  REQUIRE(sched_getaffinity(0, sizeof after, &after) == 0);
  CHECK(CPU_EQUAL(&one, &after));
  sched_setaffinity(0, sizeof all, &all);
}
#endif

TEST_CASE("polling ends when it holds, or when the time is up") {
  CHECK(spin_until([] { return true; }, 0));
  CHECK(!spin_until([] { return false; }, 0));
  CHECK(!spin_until([] { return false; }, 10));
  int polls = 0;
  CHECK(spin_until([&] { return ++polls == 100; }, 10'000'000));
  CHECK(polls == 100);
}
