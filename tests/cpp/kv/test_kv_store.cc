#include <limits>
#include <string>

#include "doctest.h"
#include "kv/kv_store.h"

using namespace dream_r;

TEST_CASE("kv store: shapes and sizes") {
  const KvShape shape{2, 3, 8, DType::bf16};
  CHECK(shape.block_bytes() == 2u * 2 * 3 * 8 * 16 * 2);
  const KvStore store(shape, 5);
  CHECK(store.blocks() == 5);
  CHECK(store.k(1).shape() == Shape{5, 3, 8, 16});
  CHECK(store.v(0).shape() == Shape{5, 3, 16, 8});
  CHECK(store.k(0).dtype() == DType::bf16);
  CHECK(store.k(0).nbytes() * 4 == shape.block_bytes() * 5);
  CHECK(store.k(0).data<char>() != store.v(0).data<char>());
}

TEST_CASE("kv store: on a device there is a block to spare") {
  if (!kHasCuda) return;
  const KvStore store({2, 3, 8, DType::bf16}, 5, cuda_device());
  CHECK(store.blocks() == 5);
  CHECK(store.spare() == 5);
  CHECK(store.k(1).shape() == Shape{6, 3, 8, 16});
  CHECK(store.v(1).shape() == Shape{6, 3, 16, 8});
}

TEST_CASE("kv store: bad shapes") {
  CHECK_THROWS_AS(KvStore(KvShape{}, 1), Error);
  CHECK_THROWS_AS(KvStore(KvShape{1, 1, 8, DType::f32}, 0), Error);
  const int big = std::numeric_limits<int>::max();
  CHECK_THROWS_AS((KvShape{big, big, big, DType::f32}.block_bytes()), Error);
}

namespace {
std::string memory_error(KvShape shape, std::int32_t blocks) {
  try {
    KvStore store(shape, blocks);
  } catch (const Error& e) {
    CHECK(e.kind() == Error::Kind::memory);
    return e.what();
  }
  return "";
}
}  // namespace

TEST_CASE("kv store: sizes that cannot be had") {
  const int big = std::numeric_limits<int>::max();
  CHECK(memory_error({1 << 20, 1 << 10, 1 << 10, DType::f32}, big) != "");
  const KvShape shape{1, 1 << 10, 1 << 10, DType::f32};
  CHECK(memory_error(shape, big).find(std::to_string(shape.block_bytes() * std::size_t(big))) !=
        std::string::npos);
}
