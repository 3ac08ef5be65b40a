#include <memory>
#include <thread>
#include <vector>

#include "core/channel.h"
#include "doctest.h"

using dream_r::Channel;

TEST_CASE("items come out in order, and nothing after close") {
  Channel<std::unique_ptr<int>> c;
  CHECK(!c.try_pop());
  for (int i = 0; i < 3; ++i) CHECK(c.push(std::make_unique<int>(i)));
  c.close();
  CHECK(!c.push(std::make_unique<int>(9)));
  for (int i = 0; i < 3; ++i) CHECK(**c.pop() == i);
  CHECK(!c.pop());
  CHECK(!c.try_pop());
}

TEST_CASE("pop wakes up for an item and for close") {
  Channel<int> in, out;
  std::thread echo([&] {
    while (auto item = in.pop()) out.push(*item + 1);
    out.close();
  });
  CHECK(out.empty());
  for (int i = 0; i < 200; ++i) {
    in.push(i);
    CHECK(*out.pop() == i + 1);
    CHECK(out.empty());
  }
  in.close();
  CHECK(!out.pop());
  echo.join();
}

TEST_CASE("each producer's items keep their order") {
  Channel<std::pair<int, int>> c;
  std::vector<std::thread> producers;
  for (int p = 0; p < 3; ++p)
    producers.emplace_back([&c, p] {
      for (int i = 0; i < 1000; ++i) c.push({p, i});
    });
  std::vector<int> next(3, 0);
  for (int k = 0; k < 3000; ++k) {
    const auto item = c.pop();
    REQUIRE(item);
    CHECK(item->second == next[item->first]++);
  }
  for (auto& t : producers) t.join();
  CHECK(!c.try_pop());
}
