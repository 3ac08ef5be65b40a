// Random operations against a naive reference: a branch is a vector of payloads, the cache an array
// block -> 16 payloads. After every operation every live branch must read back its own tokens.
#include <algorithm>
#include <cstdlib>
#include <set>
#include <vector>

#include "doctest.h"
#include "kv/prefix_index.h"
#include "kv/sequence.h"

using namespace dream_r;

namespace {

std::uint64_t seed_of_run() {
  const char* seed = std::getenv("DREAM_R_TEST_SEED");
  return seed ? std::strtoull(seed, nullptr, 10) : 1;
}

class World {
 public:
  World(std::int32_t blocks, std::uint64_t seed, bool indexed)
      : pool_(blocks), index_(pool_), cache_(blocks * 16, -1), state_(seed), indexed_(indexed) {
    branches_.push_back({KvSequence(pool_), {}});
  }

  void step() {
    const int what = next(100);
    Branch& b = branches_[next(static_cast<int>(branches_.size()))];
    if (what < 25) {
      if (branches_.size() < 12) fork(b);
    } else if (what < 60) {
      append(b);
    } else if (what < 75) {
      b.tokens.resize(next(static_cast<int>(b.tokens.size()) + 1));
      b.sequence.truncate(static_cast<std::int32_t>(b.tokens.size()));
    } else if (what < 80) {
      b.sequence.reserve(next(40));  // must be harmless, but its copy is owed
      b = Branch{std::move(b.sequence), std::move(b.tokens)};
      b.sequence.truncate(b.sequence.length() / 16 * 16);
      b.tokens.resize(b.sequence.length());
    } else if (what < 90) {
      drop_or_commit(b);
    } else if (indexed_) {
      use_index(b);
    }
    check();
  }

  void finish() {
    branches_.clear();
    index_.clear();
    pool_.check();
    CHECK(pool_.free() == pool_.total());
  }

 private:
  struct Branch {
    KvSequence sequence;
    std::vector<std::int32_t> tokens;
  };

  int next(int n) {
    state_ = state_ * 6364136223846793005u + 1442695040888963407u;
    return static_cast<int>((state_ >> 33) % static_cast<std::uint64_t>(n));
  }

  void fork(Branch& b) {
    const auto free = pool_.free();
    Branch other{b.sequence.fork(), b.tokens};
    REQUIRE(pool_.free() == free);
    branches_.push_back(std::move(other));
  }

  void append(Branch& b) {
    const int tokens = next(next(4) == 0 ? 80 : 12);
    const int room = tokens + next(3) * next(20);
    if (next(6) == 0) pool_.fail_after(next(3));
    std::vector<std::int32_t> before, after;
    b.sequence.table(before);
    const auto used = pool_.used();
    const auto plan = b.sequence.reserve(room);
    pool_.fail_after(-1);
    b.sequence.table(after);
    if (!plan) {
      REQUIRE(before == after);
      REQUIRE(used == pool_.used());
      index_.evict(next(8));
      return;
    }
    if (plan->src >= 0) {
      REQUIRE(b.sequence.length() % 16 != 0);
      REQUIRE(pool_.refs(plan->dst) == 1);
      std::copy_n(cache_.begin() + plan->src * 16, 16, cache_.begin() + plan->dst * 16);
    }
    for (int i = 0; i < tokens; ++i) {
      const auto at = static_cast<std::int32_t>(b.tokens.size());
      const std::int32_t payload = indexed_ ? next(2) : ++payload_;
      cache_[after[at / 16] * 16 + at % 16] = payload;
      b.tokens.push_back(payload);
      if (next(2)) continue;
      b.sequence.advance(static_cast<std::int32_t>(b.tokens.size()) - b.sequence.length());
    }
    b.sequence.advance(static_cast<std::int32_t>(b.tokens.size()) - b.sequence.length());
  }

  void drop_or_commit(Branch& b) {
    Branch& o = branches_[next(static_cast<int>(branches_.size()))];
    if (next(2) && &o != &b) {
      o = std::move(b);
      b = Branch{KvSequence(pool_), {}};
    } else {
      std::swap(b, branches_.back());
      branches_.pop_back();
      if (branches_.empty()) branches_.push_back({KvSequence(pool_), {}});
    }
  }

  void use_index(Branch& b) {
    const PromptKey key{b.tokens, {}};
    if (next(2)) {
      index_.insert(key, b.sequence);
    } else if (branches_.size() < 12) {
      Branch other{index_.match(key), b.tokens};
      REQUIRE(other.sequence.length() % 16 == 0);
      REQUIRE((other.sequence.length() == 0 ||
               other.sequence.length() < static_cast<std::int32_t>(b.tokens.size())));
      other.tokens.resize(other.sequence.length());
      branches_.push_back(std::move(other));
    } else {
      const auto free = pool_.free();
      const auto gave = index_.evict(next(6));
      REQUIRE(pool_.free() == free + gave);
    }
  }

  void check() {
    std::set<std::int32_t> seen;
    for (const Branch& b : branches_) {
      b.sequence.table(table_);
      REQUIRE(b.sequence.length() == static_cast<std::int32_t>(b.tokens.size()));
      REQUIRE(static_cast<std::int32_t>(table_.size()) == b.sequence.blocks());
      REQUIRE(b.sequence.capacity() >= b.sequence.length());
      seen.insert(table_.begin(), table_.end());
      bool same = true;
      for (std::size_t i = 0; i < b.tokens.size(); ++i) {
        same = same && cache_[table_[i / 16] * 16 + i % 16] == b.tokens[i];
      }
      REQUIRE(same);
    }
    pool_.check();
    // Nothing that no branch sees stays behind in a node.
    if (!indexed_) REQUIRE(pool_.used() == static_cast<std::int32_t>(seen.size()));
  }

  BlockPool pool_;
  PrefixIndex index_;
  std::vector<std::int32_t> cache_;
  std::uint64_t state_;
  bool indexed_;
  std::int32_t payload_ = 0;
  std::vector<Branch> branches_;
  std::vector<std::int32_t> table_;
};

}  // namespace

TEST_CASE("sequence model: 40k random operations") {
  for (const bool indexed : {false, true}) {
    for (const int blocks : {24, 400}) {
      World world(blocks, seed_of_run() + static_cast<std::uint64_t>(blocks), indexed);
      CAPTURE(indexed);
      CAPTURE(blocks);
      for (int i = 0; i < 10000; ++i) world.step();
      world.finish();
    }
  }
}
