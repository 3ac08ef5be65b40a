#include <map>
#include <string>
#include <vector>

#include "core/check.h"
#include "doctest.h"
#include "kv/prefix_index.h"

using namespace dream_r;

namespace {

struct Prompt {
  std::vector<std::int32_t> tokens;
  std::vector<PromptKey::Image> images;
  PromptKey key() const { return {tokens, images}; }
};

Prompt prompt(int n, int first = 0) {
  Prompt p;
  for (int i = 0; i < n; ++i) p.tokens.push_back(first + i);
  return p;
}

KvSequence filled(BlockPool& pool, const Prompt& p) {
  KvSequence s(pool);
  REQUIRE(s.reserve(static_cast<std::int32_t>(p.tokens.size())));
  s.advance(static_cast<std::int32_t>(p.tokens.size()));
  return s;
}

std::vector<std::int32_t> table(const KvSequence& s) {
  std::vector<std::int32_t> out;
  s.table(out);
  return out;
}

Digest digest(int last) {
  Digest d{};
  d[31] = static_cast<std::uint8_t>(last);
  return d;
}

}  // namespace

TEST_CASE("prefix index: whole blocks, never the whole prompt") {
  BlockPool pool(64);
  PrefixIndex index(pool);
  const Prompt p = prompt(64);
  const auto s = filled(pool, p);
  CHECK(index.match(p.key()).length() == 0);
  index.insert(p.key(), s);
  CHECK(index.held() == 4);
  CHECK(pool.used() == 4);
  CHECK(index.match(p.key()).length() == 48);
  CHECK(index.match(prompt(65).key()).length() == 64);
  CHECK(index.match(prompt(63).key()).length() == 48);
  CHECK(index.match(prompt(16).key()).length() == 0);
  CHECK(index.match(prompt(17).key()).length() == 16);
  CHECK(index.match(prompt(0).key()).length() == 0);
  CHECK(index.match(prompt(64, 1).key()).length() == 0);
  auto want = table(s);
  want.resize(3);
  CHECK(table(index.match(p.key())) == want);
}

TEST_CASE("prefix index: a match is appended to without a copy, and cut with one") {
  BlockPool pool(64);
  PrefixIndex index(pool);
  const Prompt p = prompt(40);
  index.insert(p.key(), filled(pool, p));
  CHECK(pool.used() == 2);
  KvSequence s = index.match(p.key());
  const auto plan = s.reserve(1);
  REQUIRE(plan);
  CHECK(plan->src == -1);
  s.advance(1);
  s.truncate(20);
  const auto cut = s.reserve(1);
  REQUIRE(cut);
  CHECK(cut->src >= 0);
  CHECK(index.match(p.key()).length() == 32);
}

TEST_CASE("prefix index: an image counts in every block that it covers") {
  BlockPool pool(64);
  PrefixIndex index(pool);
  Prompt p = prompt(80);
  p.images = {{10, 50, digest(1)}};
  index.insert(p.key(), filled(pool, p));
  CHECK(index.match(p.key()).length() == 64);
  Prompt other = p;
  other.images[0].digest = digest(2);
  CHECK(index.match(other.key()).length() == 0);
  other.images[0] = {20, 50, digest(1)};
  CHECK(index.match(other.key()).length() == 0);
  other.images.clear();
  CHECK(index.match(other.key()).length() == 0);
  other.images = {{10, 81, digest(1)}};
  CHECK_THROWS_AS(index.match(other.key()), Error);
  other.images = {{10, 50, digest(1)}, {49, 60, digest(1)}};
  CHECK_THROWS_AS(index.match(other.key()), Error);
  // The image comes late: the blocks before it are the same prompt.
  other.images = {{50, 60, digest(1)}};
  index.insert(other.key(), filled(pool, other));
  CHECK(index.match(prompt(80).key()).length() == 48);
}

TEST_CASE("prefix index: leaves go first, the least recently used before the others") {
  BlockPool pool(64);
  PrefixIndex index(pool);
  const Prompt a = prompt(49), b = prompt(49, 1000);
  index.insert(a.key(), filled(pool, a));
  index.insert(b.key(), filled(pool, b));
  CHECK(pool.used() == 6);
  CHECK(index.match(a.key()).length() == 48);
  CHECK(index.evict(2) == 2);
  CHECK(index.match(b.key()).length() == 16);
  CHECK(index.match(a.key()).length() == 48);
  KvSequence user = index.match(a.key());
  CHECK(index.evict(100) == 1);
  CHECK(index.held() == 3);
  CHECK(pool.used() == 3);
  user = KvSequence();
  CHECK(index.evict(100) == 3);
  CHECK(pool.used() == 0);
}

TEST_CASE("prefix index: evict reaches blocks under entries that are in use") {
  BlockPool pool(64);
  PrefixIndex index(pool);
  const Prompt p = prompt(16), longer = prompt(48);
  index.insert(p.key(), filled(pool, p));
  const auto second = filled(pool, longer);  // computed again: its first block is not the index's
  index.insert(longer.key(), second);
  CHECK(pool.used() == 4);
  CHECK(index.evict(10) == 1);
  CHECK(index.held() == 0);
  CHECK(pool.used() == 3);
}

TEST_CASE("prefix index: clear and destruction give everything back") {
  BlockPool pool(8);
  {
    PrefixIndex index(pool);
    const Prompt p = prompt(40);
    const auto s = filled(pool, p);
    index.insert(p.key(), s);
    index.clear();
    CHECK(index.held() == 0);
    CHECK(pool.used() == 3);
    index.insert(p.key(), s);
  }
  CHECK(pool.used() == 0);
}

namespace {

// Few values, so that prompts share prefixes; tokens under an image never tell images apart.
Prompt random_prompt(std::uint64_t& state) {
  const auto next = [&](int n) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return static_cast<int>((state >> 33) % static_cast<std::uint64_t>(n));
  };
  Prompt p;
  const int n = next(100);
  for (int i = 0; i < n; ++i) p.tokens.push_back(i % 16 == 3 ? next(2) : 7);
  for (int at = next(60); at < n && p.images.size() < 3;) {
    const int end = std::min(n, at + 1 + 5 * next(5));
    p.images.push_back({at, end, digest(next(2))});
    at = end + 20 * next(2);
  }
  return p;
}

// The first `blocks` blocks and everything about images that begin in them, as text.
std::string name_of(const Prompt& p, int blocks) {
  std::string s;
  for (int i = 0; i < blocks * 16; ++i) s += std::to_string(p.tokens[i]) + ",";
  for (const auto& image : p.images) {
    if (image.begin >= blocks * 16) continue;
    s += "[" + std::to_string(image.begin) + "-" + std::to_string(image.end) + "=" +
         std::to_string(image.digest[31]) + "]";
  }
  return s;
}

}  // namespace

TEST_CASE("prefix index: random prompts against a map") {
  BlockPool pool(100000);
  PrefixIndex index(pool);
  std::map<std::string, std::int32_t> naive;
  std::uint64_t state = 5;
  int hits = 0;
  for (int round = 0; round < 4000; ++round) {
    const Prompt p = random_prompt(state);
    const int whole = static_cast<int>(p.tokens.size()) / 16;
    std::vector<std::int32_t> want;
    for (int i = 1; i * 16 < static_cast<int>(p.tokens.size()); ++i) {
      const auto it = naive.find(name_of(p, i));
      if (it == naive.end()) break;
      want.push_back(it->second);
    }
    REQUIRE(table(index.match(p.key())) == want);
    hits += want.empty() ? 0 : 1;
    if (round % 3) continue;
    const auto s = filled(pool, p);
    const auto blocks = table(s);
    index.insert(p.key(), s);
    for (int i = 1; i <= whole; ++i) naive.emplace(name_of(p, i), blocks[i - 1]);
    REQUIRE(index.held() == static_cast<std::int32_t>(naive.size()));
  }
  CHECK(hits > 500);
  CHECK(pool.used() == index.held());
  CHECK(index.evict(10) == 10);
  CHECK(index.evict(1 << 20) == static_cast<std::int32_t>(naive.size()) - 10);
  CHECK(pool.used() == 0);
}
