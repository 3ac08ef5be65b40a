#pragma once
// The KV cache of one branch of one request, as block ids: a shared immutable prefix plus a private
// tail. Snapshot = fork(), rollback = truncate() or destruction, commit = move assignment. A fork
// retains one node whatever the context, and copies no KV bytes; the first append to a partial
// block that another branch also holds plans ONE block copy (copy-on-write).
//
// Rules for who drives it (the manager; the pool must outlive its sequences):
// 1. Write only after reserve(), and only [length(), length() + tokens). fork() and truncate()
//    end a reservation: reserve() again before the next write (advance() checks that it was done).
// 2. fork(), truncate() and destruction ask for a branch that nothing is writing: advance() over
//    what a work item wrote (or will surely write) first, and keep the branch of a cancelled
//    request until its work item has come back. A fork kept as a pin would cost a block copy.
// 3. A plan's copy goes before the first write of the branch and after the writes of the branch it
//    was forked from. The plan holds no reference: once reserve() has returned, the other branches
//    may write to `src` in place, or free it. Where all copies and writes of a pool are queued on
//    ONE in-order lane in the order of the calls, that is harmless and nothing else is needed, even
//    when the other branch is dropped at once. Otherwise retain(src) right after reserve() and
//    release(src) when the copy is done: a retained block is neither reused nor written in place.
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "kv/block_pool.h"

namespace dream_r {

struct BlockCopyPlan {
  std::int32_t src = -1, dst = -1;  // src < 0: nothing to copy
};

class KvSequence {
 public:
  KvSequence() = default;                // empty, belongs to no pool
  explicit KvSequence(BlockPool& pool);  // empty
  ~KvSequence();                         // gives its blocks back
  KvSequence(KvSequence&&) noexcept;     // leaves an empty sequence of the same pool
  KvSequence& operator=(KvSequence&&) noexcept;
  KvSequence(const KvSequence&) = delete;
  KvSequence& operator=(const KvSequence&) = delete;

  std::int32_t length() const;    // tokens whose KV is (or is being) written
  std::int32_t capacity() const;  // tokens its blocks can hold
  std::int32_t blocks() const;

  // Another branch with the same tokens. O(1) in the context length, needs no free block. Reserved
  // blocks without a token stay with this branch alone.
  KvSequence fork();
  // Makes room for `tokens` more after length() and owns the block that length() lies in. Nothing
  // on failure (no free block): the sequence is as before. The plan must be executed before the
  // write.
  std::optional<BlockCopyPlan> reserve(std::int32_t tokens);
  // Says that `tokens` of the reserved room are now written.
  void advance(std::int32_t tokens);
  // Forgets tokens from `length` on; whole blocks behind it (reserved ones too) return to the pool.
  void truncate(std::int32_t length);
  // Writes the block ids of [0, capacity()) to `out`, first to last.
  void table(std::vector<std::int32_t>& out) const;

  // Nodes behind the prefix: bounded right after each fork(), whatever happened before.
  static constexpr int kMaxDepth = 64;
  int depth() const;

 private:
  friend class PrefixIndex;
  struct Node;
  // Takes over one reference of each of `blocks`, which are full.
  KvSequence(BlockPool& pool, std::vector<std::int32_t> blocks);
  std::int32_t prefix_blocks() const;
  void seal();
  void compact();
  void flatten();
  void shrink_prefix(std::int32_t keep);
  void pull_partial();
  bool grow(std::int32_t count);
  void drop() noexcept;

  BlockPool* pool_ = nullptr;
  std::shared_ptr<Node> prefix_;    // whole; its content is never changed while it is shared
  std::vector<std::int32_t> tail_;  // blocks of this branch; the index may also hold full ones
  std::int32_t length_ = 0;
};

}  // namespace dream_r
