#include "kv/block_pool.h"

#include "core/check.h"

namespace dream_r {

BlockPool::BlockPool(std::int32_t total) {
  DR_CHECK(total >= 0) << "a block pool of " << total << " blocks";
  refs_.assign(static_cast<std::size_t>(total), 0);
  // Low ids first. The capacity never grows, so release() cannot throw for want of memory.
  free_.reserve(static_cast<std::size_t>(total));
  for (std::int32_t i = total; i-- > 0;) free_.push_back(i);
}

std::int32_t BlockPool::total() const { return static_cast<std::int32_t>(refs_.size()); }
std::int32_t BlockPool::free() const { return static_cast<std::int32_t>(free_.size()); }
std::int32_t BlockPool::used() const { return total() - free(); }

std::int32_t BlockPool::allocate() {
  if (fail_after_ >= 0 && fail_after_-- == 0) return -1;
  if (free_.empty()) return -1;
  const std::int32_t block = free_.back();
  free_.pop_back();
  refs_[block] = 1;
  return block;
}

void BlockPool::retain(std::int32_t block) {
  DR_STATE(refs(block) > 0) << "retain of free block " << block;
  ++refs_[block];
}

void BlockPool::release(std::int32_t block) {
  DR_STATE(refs(block) > 0) << "release of free block " << block;
  if (--refs_[block] == 0) free_.push_back(block);
}

std::int32_t BlockPool::refs(std::int32_t block) const {
  DR_STATE(block >= 0 && block < total()) << "block " << block << " of " << total();
  return refs_[block];
}

void BlockPool::fail_after(std::int64_t n) { fail_after_ = n; }

void BlockPool::check() const {
  std::vector<bool> seen(refs_.size());
  for (const std::int32_t block : free_) {
    DR_STATE(block >= 0 && block < total()) << "free list holds " << block << " of " << total();
    DR_STATE(!seen[block]) << "block " << block << " is twice in the free list";
    DR_STATE(refs_[block] == 0) << "free block " << block << " has " << refs_[block] << " refs";
    seen[block] = true;
  }
  for (std::int32_t block = 0; block < total(); ++block) {
    DR_STATE(seen[block] || refs_[block] > 0)
        << "block " << block << " has " << refs_[block] << " refs and is not free";
  }
}

}  // namespace dream_r
