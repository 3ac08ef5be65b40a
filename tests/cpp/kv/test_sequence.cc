#include <algorithm>
#include <vector>

#include "core/check.h"
#include "doctest.h"
#include "kv/sequence.h"

using namespace dream_r;

namespace {
std::vector<std::int32_t> table(const KvSequence& s) {
  std::vector<std::int32_t> out;
  s.table(out);
  return out;
}
// True when a copy was planned.
bool append(KvSequence& s, std::int32_t tokens) {
  const auto plan = s.reserve(tokens);
  REQUIRE(plan.has_value());
  s.advance(tokens);
  return plan->src >= 0;
}
}  // namespace

TEST_CASE("sequence: append, capacity, drop") {
  BlockPool pool(8);
  {
    KvSequence s(pool);
    CHECK_FALSE(append(s, 17));
    CHECK(s.length() == 17);
    CHECK(s.capacity() == 32);
    CHECK(s.blocks() == 2);
    CHECK_FALSE(append(s, 15));
    CHECK(s.blocks() == 2);
    CHECK_THROWS_AS(s.advance(1), Error);
    CHECK_THROWS_AS(s.truncate(33), Error);
    CHECK_THROWS_AS(s.reserve(-1), Error);
  }
  CHECK(pool.free() == 8);
  KvSequence none;
  CHECK_THROWS_AS(none.reserve(1), Error);
  CHECK(none.fork().length() == 0);
}

TEST_CASE("sequence: the first writer to a shared partial block copies, the last one does not") {
  BlockPool pool(8);
  KvSequence a(pool);
  append(a, 20);
  KvSequence b = a.fork();
  CHECK(pool.used() == 2);
  CHECK(table(a) == table(b));
  const auto before = table(a);
  const auto plan = b.reserve(1);
  REQUIRE(plan);
  CHECK(plan->src == before[1]);
  CHECK(plan->dst == table(b)[1]);
  CHECK(plan->dst != plan->src);
  b.advance(1);
  CHECK_FALSE(append(a, 1));  // nobody else sees its block any more
  CHECK(table(a) == before);
  CHECK(table(b)[0] == before[0]);
  a = std::move(b);  // commit
  CHECK(a.length() == 21);
  CHECK(pool.used() == 2);
  CHECK_FALSE(append(a, 1));
}

TEST_CASE("sequence: no copy once the other branch is gone, none on a block boundary") {
  BlockPool pool(8);
  KvSequence a(pool);
  append(a, 20);
  {
    KvSequence b = a.fork();
  }
  CHECK_FALSE(append(a, 1));
  a.truncate(16);
  KvSequence b = a.fork();
  CHECK_FALSE(append(b, 1));
  CHECK_FALSE(append(a, 1));
  CHECK(pool.used() == 3);
}

TEST_CASE("sequence: fork and truncate end a reservation") {
  BlockPool pool(8);
  KvSequence a(pool);
  append(a, 5);
  REQUIRE(a.reserve(40));
  KvSequence b = a.fork();
  CHECK(a.capacity() == 48);
  CHECK(b.capacity() == 16);
  CHECK_THROWS_AS(a.advance(1), Error);
  CHECK_THROWS_AS(b.advance(1), Error);
  CHECK(append(a, 40));
  CHECK_FALSE(append(b, 1));
  a.truncate(3);
  CHECK(a.capacity() == 16);
  CHECK(pool.used() == 2);
}

TEST_CASE("sequence: a pinned block is copied, not written in place") {
  BlockPool pool(4);
  KvSequence a(pool);
  append(a, 3);
  const auto pin = table(a)[0];
  pool.retain(pin);
  const auto plan = a.reserve(1);
  REQUIRE(plan);
  CHECK(plan->src == pin);
  pool.release(pin);
  CHECK(pool.used() == 1);
}

TEST_CASE("sequence: truncation into the shared prefix gives back what nobody sees") {
  BlockPool pool(64);
  KvSequence a(pool);
  append(a, 160);
  KvSequence b = a.fork();
  append(b, 160);
  KvSequence c = b.fork();
  append(c, 16);
  CHECK(pool.used() == 21);
  c.truncate(50);
  CHECK(pool.used() == 20);
  b.truncate(40);
  CHECK(pool.used() == 10);
  a.truncate(0);
  CHECK(pool.used() == 4);  // those of c
  auto want = table(c);
  want.resize(3);
  CHECK(table(b) == want);
  pool.check();
}

TEST_CASE("sequence: a failed reserve leaves everything as before") {
  for (int n = 0; n < 4; ++n) {
    BlockPool pool(16);
    KvSequence a(pool);
    append(a, 20);
    KvSequence b = a.fork();
    const auto before = table(b);
    pool.fail_after(n);
    CHECK_FALSE(b.reserve(50));  // three fresh blocks and one for the copy
    CHECK(pool.used() == 2);
    CHECK(table(b) == before);
    CHECK(b.length() == 20);
    CHECK(table(a) == before);
    CHECK(append(b, 50));
    pool.check();
  }
}

TEST_CASE("sequence: forks at 128k tokens ask the pool for nothing") {
  BlockPool pool(8192);
  KvSequence a(pool);
  append(a, 8192 * 16 - 3);
  CHECK(pool.free() == 0);
  pool.fail_after(0);
  std::vector<KvSequence> branches;
  for (int i = 0; i < 100; ++i) branches.push_back(a.fork());
  CHECK(pool.used() == 8192);
  CHECK_FALSE(branches[7].reserve(1));
  branches.clear();
  pool.fail_after(-1);
  CHECK_FALSE(append(a, 3));
}

TEST_CASE("sequence: 100k committed steps keep the chain short") {
  BlockPool pool(1 << 16);
  KvSequence a(pool);
  int deepest = 0;
  for (int i = 0; i < 100000; ++i) {
    KvSequence verify = a.fork();
    deepest = std::max(deepest, a.depth());
    append(verify, 9);
    append(a, 7);
    if (i % 3) a = std::move(verify);
    if (a.length() > 1 << 19) a.truncate(1000);
  }
  CHECK(deepest <= 4);
  pool.check();
}

TEST_CASE("sequence: a window of snapshots, and a long line of live ones") {
  BlockPool pool(60000);
  for (const std::size_t window : {3u, 20000u}) {
    KvSequence a(pool);
    std::vector<KvSequence> ring(window);
    int deepest = 0;
    for (std::size_t i = 0; i < 20000; ++i) {
      ring[i % window] = a.fork();
      deepest = std::max(deepest, a.depth());
      append(a, 17);
      if (a.length() > 17000) a.truncate(5);
    }
    CHECK(deepest <= KvSequence::kMaxDepth);
    if (window == 3) CHECK(deepest <= 8);
    ring.clear();
    CHECK(pool.used() == a.blocks());
    pool.check();
  }
  CHECK(pool.used() == 0);
}

TEST_CASE("sequence: the deepest chain that splits can make is destroyed without recursion") {
  BlockPool pool(100001);
  KvSequence a(pool);
  append(a, 16 * 100000);
  std::vector<KvSequence> cuts;
  cuts.push_back(a.fork());
  for (int i = 1; i < 100000; ++i) {
    cuts.push_back(cuts.back().fork());
    cuts.back().truncate(16 * (100000 - i));
  }
  cuts.clear();
  CHECK(a.depth() > 1000);
  SUBCASE("mended by the next fork") {
    KvSequence b = a.fork();
    CHECK(b.depth() <= KvSequence::kMaxDepth);
  }
  a = KvSequence(pool);
  CHECK(pool.used() == 0);
}
