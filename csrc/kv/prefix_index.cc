#include "kv/prefix_index.h"

#include <algorithm>
#include <cstring>
#include <list>
#include <unordered_map>
#include <utility>

#include "core/check.h"
#include "kv/kv_store.h"

namespace dream_r {
namespace {

constexpr std::int32_t kBlock = KvStore::kBlock;
using Images = std::vector<PromptKey::Image>;

std::uint64_t mix(std::uint64_t h, std::uint64_t value) {
  h = (h ^ value) * 0x9e3779b97f4a7c15u;
  return h ^ (h >> 29);
}

// The images in order; empty ones say nothing about any token.
Images ordered(const PromptKey& key) {
  Images images;
  const auto size = static_cast<std::int64_t>(key.tokens.size());
  for (const auto& image : key.images) {
    DR_CHECK(0 <= image.begin && image.begin <= image.end && image.end <= size)
        << "image over tokens [" << image.begin << ", " << image.end << ") of " << size;
    if (image.begin < image.end) images.push_back(image);
  }
  std::sort(images.begin(), images.end(),
            [](const auto& a, const auto& b) { return a.begin < b.begin; });
  for (std::size_t i = 1; i < images.size(); ++i) {
    DR_CHECK(images[i - 1].end <= images[i].begin) << "images overlap at token " << images[i].begin;
  }
  return images;
}

// One block of a prompt. Images keep their whole range, relative to the block, so that an image cut
// at another place is another prompt.
struct Content {
  std::array<std::int32_t, kBlock> tokens;
  Images images;

  bool operator==(const Content& o) const {
    return tokens == o.tokens && std::equal(images.begin(), images.end(), o.images.begin(),
                                            o.images.end(), [](const auto& a, const auto& b) {
                                              return a.begin == b.begin && a.end == b.end &&
                                                     a.digest == b.digest;
                                            });
  }

  std::uint64_t hash(std::uint64_t h) const {
    for (const std::int32_t t : tokens) h = mix(h, static_cast<std::uint32_t>(t));
    for (const auto& image : images) {
      h = mix(h, (static_cast<std::uint64_t>(static_cast<std::uint32_t>(image.begin)) << 32) |
                     static_cast<std::uint32_t>(image.end));
      std::uint64_t words[4];
      std::memcpy(words, image.digest.data(), sizeof words);
      for (const std::uint64_t w : words) h = mix(h, w);
    }
    return h;
  }
};

// Block after block of one prompt.
class Reader {
 public:
  explicit Reader(const PromptKey& key) : tokens_(key.tokens), images_(ordered(key)) {}

  const Content& next() {
    std::copy_n(tokens_.begin() + at_, kBlock, content_.tokens.begin());
    content_.images.clear();
    while (first_ < images_.size() && images_[first_].end <= at_) ++first_;
    for (auto i = first_; i < images_.size() && images_[i].begin < at_ + kBlock; ++i) {
      auto image = images_[i];
      image.begin -= at_;
      image.end -= at_;
      content_.images.push_back(image);
    }
    at_ += kBlock;
    return content_;
  }

 private:
  std::span<const std::int32_t> tokens_;
  Images images_;
  std::size_t first_ = 0;
  std::int32_t at_ = 0;
  Content content_;
};

struct Entry {
  Entry* parent;
  Content content;
  std::uint64_t hash;  // of this block and all before it
  std::int32_t block;
  std::int32_t children = 0;
  bool doomed = false;
  std::list<Entry*>::iterator used{};
};

}  // namespace

// A trie of blocks. A child's identity includes its parent entry, so equal entries mean equal
// prompts from token 0 on. `recent` is most recently used first, and whoever uses an entry uses its
// parents after it: seen from the back, children come before their parents.
struct PrefixIndex::Impl {
  explicit Impl(BlockPool& p) : pool(p) {}
  ~Impl() { clear(); }

  Entry* find(const Entry* parent, const Content& content, std::uint64_t hash) {
    auto [it, end] = entries.equal_range(hash);
    for (; it != end; ++it) {
      Entry* e = it->second.get();
      if (e->parent == parent && e->content == content) return e;
    }
    return nullptr;
  }

  Entry* add(Entry* parent, const Content& content, std::uint64_t hash, std::int32_t block) {
    auto entry = std::make_unique<Entry>(Entry{parent, content, hash, block});
    Entry* e = entry.get();
    e->used = recent.insert(recent.begin(), e);
    entries.emplace(hash, std::move(entry));
    pool.retain(block);
    if (parent) ++parent->children;
    return e;
  }

  void touch(Entry* leaf) {
    for (Entry* e = leaf; e; e = e->parent) recent.splice(recent.begin(), recent, e->used);
  }

  void remove(Entry* e) {
    pool.release(e->block);
    if (e->parent) --e->parent->children;
    recent.erase(e->used);
    auto [it, end] = entries.equal_range(e->hash);
    it = std::find_if(it, end, [e](const auto& x) { return x.second.get() == e; });
    entries.erase(it);
  }

  bool idle(const Entry* e) const { return pool.refs(e->block) == 1; }
  std::int32_t evict_leaves(std::int32_t want);
  std::int32_t evict_under_used(std::int32_t want);
  void clear() {
    while (!recent.empty()) remove(recent.back());
  }

  BlockPool& pool;
  std::unordered_multimap<std::uint64_t, std::unique_ptr<Entry>> entries;
  std::list<Entry*> recent;
};

std::int32_t PrefixIndex::Impl::evict_leaves(std::int32_t want) {
  std::int32_t gave = 0;
  for (auto it = recent.end(); it != recent.begin() && gave < want;) {
    Entry* e = *std::prev(it);
    if (e->children == 0 && idle(e)) {
      remove(e);
      ++gave;
    } else {
      --it;
    }
  }
  return gave;
}

// What is left idle lies under entries whose blocks are in use (a prompt computed twice and indexed
// once). Those entries must go too: without their parents nobody could find them.
std::int32_t PrefixIndex::Impl::evict_under_used(std::int32_t want) {
  std::int32_t gave = 0;
  for (auto it = recent.rbegin(); it != recent.rend() && gave < want; ++it) {
    if (!idle(*it)) continue;
    (*it)->doomed = true;
    ++gave;
  }
  if (gave == 0) return 0;
  std::vector<Entry*> out;  // parents first
  for (Entry* e : recent) {
    if (e->parent && e->parent->doomed) e->doomed = true;
    if (e->doomed) out.push_back(e);
  }
  while (!out.empty()) {
    remove(out.back());
    out.pop_back();
  }
  return gave;
}

PrefixIndex::PrefixIndex(BlockPool& pool) : impl_(std::make_unique<Impl>(pool)) {}
PrefixIndex::~PrefixIndex() = default;

KvSequence PrefixIndex::match(const PromptKey& key) {
  const auto whole = (static_cast<std::int64_t>(key.tokens.size()) - 1) / kBlock;
  Reader reader(key);
  std::vector<std::int32_t> blocks;
  Entry* last = nullptr;
  for (std::int64_t i = 0; i < whole; ++i) {
    const Content& content = reader.next();
    Entry* e = impl_->find(last, content, content.hash(last ? last->hash : 0));
    if (!e) break;
    blocks.push_back(e->block);
    last = e;
  }
  impl_->touch(last);
  for (const std::int32_t block : blocks) impl_->pool.retain(block);
  return KvSequence(impl_->pool, std::move(blocks));
}

void PrefixIndex::insert(const PromptKey& key, const KvSequence& sequence) {
  DR_STATE(!sequence.pool_ || sequence.pool_ == &impl_->pool) << "a sequence of another pool";
  const auto tokens =
      std::min<std::int64_t>(static_cast<std::int64_t>(key.tokens.size()), sequence.length());
  Reader reader(key);
  std::vector<std::int32_t> table;
  sequence.table(table);
  Entry* last = nullptr;
  for (std::int64_t i = 0; i < tokens / kBlock; ++i) {
    const Content& content = reader.next();
    const std::uint64_t hash = content.hash(last ? last->hash : 0);
    Entry* e = impl_->find(last, content, hash);
    last = e ? e : impl_->add(last, content, hash, table[static_cast<std::size_t>(i)]);
  }
  impl_->touch(last);
}

std::int32_t PrefixIndex::evict(std::int32_t blocks) {
  const std::int32_t gave = impl_->evict_leaves(blocks);
  return gave + (gave < blocks ? impl_->evict_under_used(blocks - gave) : 0);
}

std::int32_t PrefixIndex::held() const { return static_cast<std::int32_t>(impl_->recent.size()); }
void PrefixIndex::clear() { impl_->clear(); }

}  // namespace dream_r
