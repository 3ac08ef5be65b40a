// Who has works, and so who may sleep.
#include "doctest.h"
#include "runtime/lane_clock.h"

using namespace dream_r;

TEST_CASE("lanes rest when none of them has a work") {
  LaneClock clock(2);
  CHECK(clock.resting());
  clock.join(LaneId::target);
  CHECK(!clock.resting());
  clock.join(LaneId::draft);
  clock.join(LaneId::draft);
  clock.part(LaneId::target);
  clock.part(LaneId::draft);
  CHECK(!clock.resting());  // the draft's other work may bring the target one
  clock.part(LaneId::draft);
  CHECK(clock.resting());
  for (LaneId lane : {LaneId::verify, LaneId::text}) {
    clock.join(lane);
    CHECK(!clock.resting());
    clock.part(lane);
    CHECK(clock.resting());
  }
}
