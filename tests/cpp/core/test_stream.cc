#include <atomic>
#include <chrono>
#include <fstream>
#include <iterator>
#include <mutex>
#include <numeric>
#include <set>
#include <string>
#include <thread>
#include <vector>

#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "core/check.h"
#include "core/stream.h"
#include "doctest.h"

using dream_r::Stream;

namespace {

struct Range {
  std::int64_t begin, end;
};

// The ranges of one parallel_for, by begin.
std::vector<Range> ranges(Stream& s, std::int64_t n, std::int64_t grain,
                          std::int64_t multiple = 1) {
  std::vector<Range> parts(static_cast<std::size_t>(n) + 1, {-1, -1});
  s.parallel_for(n, grain, [&](std::int64_t b, std::int64_t e) { parts[b] = {b, e}; }, multiple);
  std::erase_if(parts, [](const Range& r) { return r.begin < 0; });
  return parts;
}

// Threads that take part where each stays until `wanted` of them have come, or a while has passed.
std::size_t members_at_work(Stream& s, std::size_t wanted, std::chrono::milliseconds patience) {
  std::mutex mutex;
  std::set<std::thread::id> seen;
  const auto until = std::chrono::steady_clock::now() + patience;
  s.parallel_for(64, 1, [&](std::int64_t, std::int64_t) {
    for (;;) {
      {
        std::lock_guard lock(mutex);
        seen.insert(std::this_thread::get_id());
        if (seen.size() >= wanted) return;
      }
      if (std::chrono::steady_clock::now() >= until) return;
      std::this_thread::yield();
    }
  });
  return seen.size();
}

}  // namespace

TEST_CASE("parallel_for covers [0, n) once, in ranges no shorter than a quarter of a grain") {
  for (const int threads : {1, 2, 3, 5}) {
    Stream s(threads, 0);
    for (const std::int64_t n : {0, 1, 2, 7, 16, 17, 100}) {
      for (const std::int64_t grain : {1, 3, 16, 200}) {
        for (const std::int64_t multiple : {1, 4}) {
          std::int64_t at = 0;
          for (const auto& [begin, end] : ranges(s, n, grain, multiple)) {
            CHECK(begin == at);
            CHECK(end > begin);
            if (end != n) CHECK(end - begin >= grain / 4);
            if (end != n) CHECK((end - begin) % multiple == 0);
            at = end;
          }
          CHECK(at == n);
        }
      }
    }
  }
}

TEST_CASE("small work stays on the caller, large work is for every member within the limit") {
  using std::chrono::milliseconds;
  Stream s(3);
  CHECK(ranges(s, 15, 8).size() == 1);
  CHECK(ranges(s, 16, 8).size() > 1);
  CHECK(members_at_work(s, 3, milliseconds(10'000)) == 3);
  s.limit(2);
  CHECK(s.active() == 2);
  CHECK(members_at_work(s, 2, milliseconds(10'000)) == 2);
  CHECK(members_at_work(s, 3, milliseconds(5)) <= 2);
  s.limit(3);
  CHECK(members_at_work(s, 3, milliseconds(10'000)) == 3);
  CHECK_THROWS_AS(s.limit(4), dream_r::Error);
  CHECK_THROWS_AS(s.limit(0), dream_r::Error);
  CHECK_THROWS_AS(Stream(0), dream_r::Error);
}

TEST_CASE("another thread comes while the caller is busy, spinning or asleep") {
  for (const int spin_us : {0, 50}) {
    Stream s(2, spin_us);
    CHECK(members_at_work(s, 2, std::chrono::milliseconds(10'000)) == 2);
  }
}

TEST_CASE("results of one job are visible to the next, spinning or asleep") {
  for (const int spin_us : {0, 50, 500}) {
    Stream s(4, spin_us);
    std::vector<std::int64_t> from(64, 0), to(64, 0);
    for (int round = 0; round < 200; ++round) {
      s.parallel_for(64, 4, [&](std::int64_t b, std::int64_t e) {
        for (auto i = b; i < e; ++i) to[i] = from[(i + 17) % 64] + 1;  // another member's element
      });
      std::swap(from, to);
      if (round % 50 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    CHECK(std::accumulate(from.begin(), from.end(), std::int64_t{0}) == 64 * 200);
  }
}

TEST_CASE("a team that was told to rest comes for the next job") {
  Stream s(2, 1'000'000'000);  // else it would poll for as long as the test may run
  for (int round = 0; round < 20; ++round) {
    CHECK(members_at_work(s, 2, std::chrono::milliseconds(10'000)) == 2);
    s.rest();
  }
  Stream alone(1);
  alone.rest();
}

#if defined(__linux__)
TEST_CASE("a team that was told to rest sleeps") {
  Stream s(2, 1'000'000'000);
  std::atomic<long> member{0};  // its thread
  const auto caller = std::this_thread::get_id();
  while (member == 0)
    s.parallel_for(2, 1, [&](std::int64_t, std::int64_t) {
      if (std::this_thread::get_id() != caller) member = syscall(SYS_gettid);
    });
  s.rest();
  const auto asleep = [&] {  // the letter behind the name in parentheses
    std::ifstream stat("/proc/self/task/" + std::to_string(member) + "/stat");
    const std::string text{std::istreambuf_iterator<char>(stat), {}};
    return text.at(text.rfind(')') + 2) == 'S';
  };
  for (int i = 0; i < 10'000 && !asleep(); ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  CHECK(asleep());
}
#endif

TEST_CASE("an exception of any member reaches the caller and the team lives on") {
  Stream s(3);
  for (const std::int64_t bad : {0, 1, 2}) {
    std::atomic<int> done{0};
    CHECK_THROWS_AS(s.parallel_for(3, 1,
                                   [&](std::int64_t b, std::int64_t) {
                                     if (b == bad)
                                       throw dream_r::Error(dream_r::Error::Kind::state, "x");
                                     ++done;
                                   }),
                    dream_r::Error);
    CHECK(done <= 2);
  }
  CHECK(ranges(s, 3, 1).size() == 3);
}
