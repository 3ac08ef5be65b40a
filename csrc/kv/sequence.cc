#include "kv/sequence.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "core/check.h"
#include "kv/kv_store.h"

namespace dream_r {
namespace {

constexpr std::int32_t kBlock = KvStore::kBlock;

std::int32_t blocks_for(std::int64_t tokens) {
  return static_cast<std::int32_t>((tokens + kBlock - 1) / kBlock);
}

}  // namespace

// Blocks [before, end()) of every branch that holds it. A holder always sees the whole node, so a
// node may be split in two or merged with a parent that nobody else holds without anyone noticing.
struct KvSequence::Node {
  Node(BlockPool& p, std::shared_ptr<Node> up, std::int32_t first) noexcept
      : pool(&p), parent(std::move(up)), before(first) {}
  Node(const Node&) = delete;
  Node& operator=(const Node&) = delete;

  // Not by the recursion of shared_ptr: a chain may be longer than the stack is deep.
  ~Node() {
    for (const std::int32_t block : blocks) pool->release(block);
    auto up = std::move(parent);
    while (up && up.use_count() == 1) up = std::exchange(up->parent, nullptr);
  }

  std::int32_t end() const { return before + static_cast<std::int32_t>(blocks.size()); }

  // Only where the parent has no other holder. Costs this node's size, not the parent's, so that
  // a short step on a long context stays cheap.
  void absorb_parent() {
    parent->blocks.insert(parent->blocks.end(), blocks.begin(), blocks.end());
    blocks.swap(parent->blocks);
    parent->blocks.clear();
    before = parent->before;
    parent = std::exchange(parent->parent, nullptr);
  }

  // Moves blocks [before, keep) to a new parent, and says which. Costs the blocks behind `keep`.
  std::shared_ptr<Node> split(std::int32_t keep) {
    auto head = std::make_shared<Node>(*pool, nullptr, before);
    std::vector<std::int32_t> rest(blocks.begin() + (keep - before), blocks.end());
    blocks.resize(static_cast<std::size_t>(keep - before));
    head->blocks = std::exchange(blocks, std::move(rest));
    head->parent = std::exchange(parent, head);
    before = keep;
    return head;
  }

  BlockPool* pool;
  std::shared_ptr<Node> parent;
  std::int32_t before;
  std::vector<std::int32_t> blocks;  // one reference of each is this node's
};

KvSequence::KvSequence(BlockPool& pool) : pool_(&pool) {}

KvSequence::KvSequence(BlockPool& pool, std::vector<std::int32_t> blocks)
    : pool_(&pool),
      tail_(std::move(blocks)),
      length_(static_cast<std::int32_t>(tail_.size()) * kBlock) {}

KvSequence::~KvSequence() { drop(); }

KvSequence::KvSequence(KvSequence&& other) noexcept
    : pool_(other.pool_),
      prefix_(std::move(other.prefix_)),
      tail_(std::exchange(other.tail_, {})),
      length_(std::exchange(other.length_, 0)) {}

KvSequence& KvSequence::operator=(KvSequence&& other) noexcept {
  if (this == &other) return *this;
  drop();
  pool_ = other.pool_;
  prefix_ = std::move(other.prefix_);
  tail_ = std::exchange(other.tail_, {});
  length_ = std::exchange(other.length_, 0);
  return *this;
}

void KvSequence::drop() noexcept {
  for (const std::int32_t block : tail_) pool_->release(block);
  tail_.clear();
  prefix_.reset();
  length_ = 0;
}

std::int32_t KvSequence::length() const { return length_; }
std::int32_t KvSequence::capacity() const { return blocks() * kBlock; }
std::int32_t KvSequence::prefix_blocks() const { return prefix_ ? prefix_->end() : 0; }
std::int32_t KvSequence::blocks() const {
  return prefix_blocks() + static_cast<std::int32_t>(tail_.size());
}

int KvSequence::depth() const {
  int n = 0;
  for (const Node* node = prefix_.get(); node; node = node->parent.get()) ++n;
  return n;
}

KvSequence KvSequence::fork() {
  seal();
  KvSequence branch;
  branch.pool_ = pool_;
  branch.prefix_ = prefix_;
  branch.length_ = length_;
  return branch;
}

// The tail's blocks that hold tokens become part of the prefix.
void KvSequence::seal() {
  const std::int32_t filled = blocks_for(length_) - prefix_blocks();
  if (filled > 0) {
    if (prefix_ && prefix_.use_count() == 1) {
      auto& blocks = prefix_->blocks;
      blocks.insert(blocks.end(), tail_.begin(), tail_.begin() + filled);
    } else {
      auto node = std::make_shared<Node>(*pool_, prefix_, prefix_blocks());
      // A copy, not a move: the tail keeps its memory for the next step.
      node->blocks.assign(tail_.begin(), tail_.begin() + filled);
      prefix_ = std::move(node);
    }
    tail_.erase(tail_.begin(), tail_.begin() + filled);
  }
  compact();
}

// Keeps the chain as short as the branches alive allow, and never longer than kMaxDepth: table()
// then costs its blocks, not the steps that made them.
void KvSequence::compact() {
  int depth = 0;
  for (Node* node = prefix_.get(); node; node = node->parent.get()) {
    while (node->parent && node->parent.use_count() == 1) node->absorb_parent();
    if (++depth == kMaxDepth && node->parent) return flatten();
  }
}

// So many branches are alive along one chain that merging does not help: one node with references
// of its own, once in kMaxDepth steps.
void KvSequence::flatten() {
  auto node = std::make_shared<Node>(*pool_, nullptr, 0);
  std::vector<std::int32_t> blocks;
  table(blocks);
  blocks.resize(static_cast<std::size_t>(prefix_blocks()));
  for (const std::int32_t block : blocks) pool_->retain(block);
  node->blocks = std::move(blocks);
  prefix_ = std::move(node);
}

// The prefix becomes its first `keep` blocks (all of it, where it has no more).
void KvSequence::shrink_prefix(std::int32_t keep) {
  while (prefix_ && keep <= prefix_->before) {
    auto parent = prefix_->parent;
    prefix_ = std::move(parent);
  }
  if (!prefix_ || keep >= prefix_->end()) return;
  if (prefix_.use_count() > 1) {
    prefix_ = prefix_->split(keep);
    return;
  }
  while (prefix_->end() > keep) {
    pool_->release(prefix_->blocks.back());
    prefix_->blocks.pop_back();
  }
}

// A partial block at the end of the prefix moves to the tail. It is this branch's alone when its
// only reference is then the tail's; no reader sees a difference either way.
void KvSequence::pull_partial() {
  const std::int32_t index = length_ / kBlock;
  if (length_ % kBlock == 0 || index >= prefix_blocks()) return;
  const std::int32_t block = prefix_->blocks.back();
  tail_.insert(tail_.begin(), block);
  pool_->retain(block);
  shrink_prefix(index);
}

// `count` fresh blocks at the end of the tail, or none and false.
bool KvSequence::grow(std::int32_t count) {
  const std::size_t old = tail_.size();
  tail_.insert(tail_.end(), static_cast<std::size_t>(count), -1);
  for (std::size_t i = old; i < tail_.size(); ++i) {
    tail_[i] = pool_->allocate();
    if (tail_[i] >= 0) continue;
    while (i-- > old) pool_->release(tail_[i]);
    tail_.resize(old);
    return false;
  }
  return true;
}

std::optional<BlockCopyPlan> KvSequence::reserve(std::int32_t tokens) {
  DR_STATE(pool_) << "reserve() on a sequence without a pool";
  DR_CHECK(tokens >= 0 && tokens <= std::numeric_limits<std::int32_t>::max() - kBlock - length_)
      << "room for " << tokens << " tokens after " << length_;
  pull_partial();
  const auto at = static_cast<std::size_t>(length_ / kBlock - prefix_blocks());
  const bool copy = length_ % kBlock != 0 && pool_->refs(tail_[at]) > 1;
  const std::int32_t missing = std::max(0, blocks_for(length_ + tokens) - blocks());
  if (!grow(missing + (copy ? 1 : 0))) return std::nullopt;
  if (!copy) return BlockCopyPlan{};
  const BlockCopyPlan plan{tail_[at], tail_.back()};
  tail_.pop_back();
  tail_[at] = plan.dst;
  pool_->release(plan.src);
  return plan;
}

void KvSequence::advance(std::int32_t tokens) {
  DR_STATE(tokens >= 0 && tokens <= capacity() - length_)
      << "advance by " << tokens << " at " << length_ << " of " << capacity();
  if (tokens > 0 && length_ % kBlock != 0) {
    const std::int32_t at = length_ / kBlock - prefix_blocks();
    DR_STATE(at >= 0 && pool_->refs(tail_[at]) == 1)
        << "advance at " << length_ << " into a block that another branch holds: reserve() first";
  }
  length_ += tokens;
}

void KvSequence::truncate(std::int32_t length) {
  DR_CHECK(length >= 0 && length <= length_) << "truncate to " << length << " of " << length_;
  const std::int32_t keep = blocks_for(length);
  const auto tail = static_cast<std::size_t>(std::max(0, keep - prefix_blocks()));
  while (tail_.size() > tail) {
    pool_->release(tail_.back());
    tail_.pop_back();
  }
  shrink_prefix(keep);
  length_ = length;
}

void KvSequence::table(std::vector<std::int32_t>& out) const {
  out.resize(static_cast<std::size_t>(blocks()));
  std::copy(tail_.begin(), tail_.end(), out.begin() + prefix_blocks());
  for (const Node* node = prefix_.get(); node; node = node->parent.get()) {
    std::copy(node->blocks.begin(), node->blocks.end(), out.begin() + node->before);
  }
}

}  // namespace dream_r
