#include "core/check.h"
#include "doctest.h"
#include "kv/block_pool.h"

using namespace dream_r;

TEST_CASE("block pool: allocate, retain, release") {
  BlockPool pool(3);
  const auto a = pool.allocate();
  const auto b = pool.allocate();
  CHECK(a != b);
  CHECK(pool.free() == 1);
  pool.retain(a);
  pool.release(a);
  CHECK(pool.refs(a) == 1);
  CHECK(pool.used() == 2);
  CHECK(pool.allocate() >= 0);
  CHECK(pool.allocate() == -1);
  pool.release(a);
  CHECK(pool.free() == 1);
  CHECK(pool.allocate() == a);
  pool.check();
  CHECK(pool.free() + pool.used() == pool.total());
}

TEST_CASE("block pool: misuse is an Error") {
  BlockPool pool(2);
  CHECK_THROWS_AS(pool.release(0), Error);
  CHECK_THROWS_AS(pool.retain(1), Error);
  CHECK_THROWS_AS(pool.refs(2), Error);
  CHECK_THROWS_AS(pool.refs(-1), Error);
  CHECK_THROWS_AS(BlockPool(-1), Error);
  CHECK(BlockPool(0).allocate() == -1);
  pool.check();
}

TEST_CASE("block pool: the injected failure comes once") {
  BlockPool pool(4);
  pool.fail_after(1);
  CHECK(pool.allocate() >= 0);
  CHECK(pool.allocate() == -1);
  CHECK(pool.allocate() >= 0);
  pool.fail_after(0);
  pool.fail_after(-1);
  CHECK(pool.allocate() >= 0);
  pool.check();
}
