#include <cmath>
#include <cstring>
#include <limits>

#include "core/arena.h"
#include "core/dtype.h"
#include "core/tensor.h"
#include "doctest.h"

using namespace dream_r;

TEST_CASE("a tensor is a contiguous view of a shared buffer") {
  const Tensor t = Tensor::empty({4, 3}, DType::i32);
  CHECK(reinterpret_cast<std::uintptr_t>(t.data<std::byte>()) % 64 == 0);
  for (int i = 0; i < 12; ++i) t.data<int>()[i] = i;
  const Tensor r = t.rows(1, 3);
  CHECK(r.shape() == Shape{2, 3});
  CHECK(r.data<int>()[0] == 3);
  CHECK(r.buffer() == t.buffer());
  CHECK(t.view({2, 6}).data<int>()[6] == 6);
  CHECK(t.rows(4, 4).numel() == 0);
  CHECK(t.nbytes() == 48);
  CHECK(t.shape()[-1] == 3);
  CHECK(t.shape().str() == "[4, 3]");
  CHECK_THROWS_AS(t.rows(3, 5), Error);
  CHECK_THROWS_AS(t.view({5, 2}), Error);
  CHECK_THROWS_AS(t.f32(), Error);
  CHECK_THROWS_AS((Shape{1, 1, 1, 1, 1, 1}), Error);
}

TEST_CASE("borrowed memory is kept as long as a view of it") {
  auto owner = std::make_shared<int>(7);
  std::weak_ptr<int> alive = owner;
  auto buffer = Buffer::borrow(owner.get(), sizeof(int), owner);
  Tensor t(buffer, buffer->data(), DType::i32, Shape{1});
  owner.reset();
  buffer.reset();
  CHECK(t.data<int>()[0] == 7);
  t = Tensor();
  CHECK(alive.expired());
}

TEST_CASE("an arena hands out the same aligned addresses after reset") {
  Arena a({}, 1024);
  const auto sizes = {1, 100, 7, 300, 2000, 64};
  std::vector<std::byte*> first;
  for (const int n : sizes) first.push_back(a.take({n}, DType::f32).data<std::byte>());
  const std::size_t capacity = a.capacity();
  for (std::size_t i = 0; i < first.size(); ++i) {
    CHECK(reinterpret_cast<std::uintptr_t>(first[i]) % 64 == 0);
    for (std::size_t j = 0; j < i; ++j) CHECK(first[i] != first[j]);
  }
  a.reset();
  std::size_t i = 0;
  for (const int n : sizes) CHECK(a.take({n}, DType::f32).data<std::byte>() == first[i++]);
  CHECK(a.capacity() == capacity);
}

TEST_CASE("an arena's chunks grow with what it holds, up to a limit") {
  Arena a({}, 1024, 8192);
  std::vector<std::size_t> capacities;
  for (int i = 0; i < 40; ++i) {
    a.take({1024}, DType::u8);
    if (capacities.empty() || capacities.back() != a.capacity()) capacities.push_back(a.capacity());
  }
  const std::size_t expected[] = {1024, 2048, 4096, 8192, 16384, 24576, 32768, 40960};
  CHECK(std::equal(capacities.begin(), capacities.end(), std::begin(expected), std::end(expected)));
  a.take({100'000}, DType::u8);
  CHECK(a.capacity() == 40960 + 100'032);  // its own size, in whole lines
}

TEST_CASE("bf16 rounds to nearest even and keeps NaN and infinity") {
  const auto round = [](float f) { return static_cast<float>(bf16(f)); };
  CHECK(round(1.0f) == 1.0f);
  CHECK(round(1.0f + 0x1p-8f) == 1.0f);                // half way: to even
  CHECK(round(1.0f + 3 * 0x1p-8f) == 1.0f + 0x1p-6f);  // half way: to even
  CHECK(round(1.0f + 0x1.1p-8f) == 1.0f + 0x1p-7f);    // above half
  CHECK(round(-3.0e38f) == doctest::Approx(-3.0e38f).epsilon(0.01));
  CHECK(std::isinf(round(std::numeric_limits<float>::infinity())));
  CHECK(std::isnan(round(std::numeric_limits<float>::quiet_NaN())));
  CHECK(std::isnan(round(std::bit_cast<float>(0x7f800001u))));
}

TEST_CASE("f16 widens exactly") {
  const auto f16_to_float = [](std::uint16_t bits) {
    return static_cast<float>(std::bit_cast<f16>(bits));
  };
  CHECK(f16_to_float(0x3c00) == 1.0f);
  CHECK(f16_to_float(0xc000) == -2.0f);
  CHECK(f16_to_float(0x7bff) == 65504.0f);
  CHECK(f16_to_float(0x0001) == 0x1p-24f);
  CHECK(f16_to_float(0x03ff) == 1023 * 0x1p-24f);
  CHECK(f16_to_float(0x0400) == 0x1p-14f);
  CHECK(std::signbit(f16_to_float(0x8000)));
  CHECK(std::isinf(f16_to_float(0x7c00)));
  CHECK(std::isnan(f16_to_float(0x7c01)));
}

TEST_CASE("f16 rounds to nearest even, stays finite and keeps NaN") {
  const auto bits = [](double v) { return f16(static_cast<float>(v)).bits; };
  const auto value = [](std::uint32_t h) {
    return static_cast<double>(
        static_cast<float>(std::bit_cast<f16>(static_cast<std::uint16_t>(h))));
  };
  for (std::uint32_t h = 0; h < 0x7bffu; ++h) {  // every finite one, and what lies between two
    const double here = value(h), next = value(h + 1), middle = (here + next) / 2;
    CHECK(here < next);
    CHECK(bits(here) == h);
    CHECK(bits(-here) == (h | 0x8000u));
    CHECK(bits(middle) == h + h % 2);
    CHECK(bits(middle - (next - here) / 64) == h);
    CHECK(bits(middle + (next - here) / 64) == h + 1);
  }
  for (const double large : {65504.0, 65519.0, 65520.0, 1e6, 3e38}) CHECK(bits(large) == 0x7bff);
  CHECK(bits(-std::numeric_limits<double>::infinity()) == 0xfbff);
  CHECK(std::isnan(static_cast<float>(f16(std::numeric_limits<float>::quiet_NaN()))));
  CHECK(std::isnan(static_cast<float>(f16(std::bit_cast<float>(0xff800001u)))));
}
