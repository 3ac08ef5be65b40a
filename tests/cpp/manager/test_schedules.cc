// Random schedules: works come back in any order, requests are cancelled, memory fails, and after
// every event the manager agrees with the reference. DREAM_R_SCHEDULES=1000000 sets how many,
// DREAM_R_SEED=n where to begin (with DREAM_R_SCHEDULES=1: a replay that prints its events).
#include <cstdlib>
#include <iostream>

#include "doctest.h"
#include "machine.h"

namespace dream_r::test {
namespace {

std::uint64_t from_environment(const char* name, std::uint64_t otherwise) {
  const char* text = std::getenv(name);
  return text ? std::strtoull(text, nullptr, 10) : otherwise;
}

struct Trouble {
  double cancel = 0, memory = 0, lane = 0;
};

void one_event(Machine& m, Random& dice, std::size_t& next, const Trouble& trouble) {
  const auto requests = m.clients().size();
  if (next < requests && (m.outstanding() == 0 || dice.chance(0.15))) return m.submit(next++);
  if (next > 0 && dice.chance(trouble.cancel)) return m.cancel(dice.next() % next);
  if (dice.chance(trouble.memory))
    m.fail_allocation(dice.pick({Role::draft, Role::target}), dice.below(4));
  if (m.outstanding() == 0) return;
  const auto job = dice.next() % m.outstanding();
  if (dice.chance(trouble.lane)) m.lane_error(job);
  m.complete(job);
}

// Returns how many events it took.
int run_schedule(std::uint64_t seed, bool print) {
  const Scenario scenario = random_scenario(seed);
  Machine m(scenario);
  if (print) m.log = [](const std::string& line) { std::cerr << "  " << line << '\n'; };
  Random dice{mix(seed, 0x5eed)};
  m.lazy_copy = dice.chance(0.5);
  Trouble trouble;
  if (dice.chance(0.4)) trouble.cancel = 0.03;
  if (dice.chance(0.4)) trouble.memory = 0.1;
  if (dice.chance(0.1)) trouble.lane = 0.02;
  std::size_t next = 0;
  int events = 0;
  while (next < scenario.specs.size() || m.outstanding() > 0) {
    DR_STATE(++events < 100000) << "the schedule does not end";
    one_event(m, dice, next, trouble);
  }
  m.finish();
  return events;
}

bool passes(std::uint64_t seed, bool print, std::int64_t& events) {
  try {
    events += run_schedule(seed, print);
    return true;
  } catch (const std::exception& e) {
    std::cerr << "schedule " << seed << ": " << e.what() << '\n';
    return false;
  }
}

TEST_CASE("random schedules agree with the reference") {
  const auto count = from_environment("DREAM_R_SCHEDULES", 20000);
  const auto first = from_environment("DREAM_R_SEED", 1);
  std::int64_t events = 0;
  for (std::uint64_t i = 0; i < count; ++i) {
    if (passes(first + i, count == 1, events)) {
      if ((i + 1) % 100000 == 0) std::cerr << i + 1 << " schedules, " << events << " events\n";
      continue;
    }
    if (count > 1) passes(first + i, true, events);
    FAIL("schedule " << first + i
                     << " failed (replay: DREAM_R_SCHEDULES=1 DREAM_R_SEED=" << first + i << ")");
  }
  MESSAGE(count << " schedules, " << events << " events");
}

}  // namespace
}  // namespace dream_r::test
