#pragma once
// Ref-counted KV blocks of one model: ids only, no bytes (the bytes are a KvStore's). Touched by
// the manager alone. Invariant after every call: free() + used() == total().
#include <cstdint>
#include <span>
#include <vector>

namespace dream_r {

class BlockPool {
 public:
  explicit BlockPool(std::int32_t total);
  std::int32_t total() const;
  std::int32_t free() const;
  std::int32_t used() const;

  // A block with one reference, or -1 when none is free (or the injected failure says so).
  std::int32_t allocate();
  void retain(std::int32_t block);
  void release(std::int32_t block);  // the last release frees it
  std::int32_t refs(std::int32_t block) const;

  // Test hook: the n-th allocation from now fails, once (0 = the next one; -1 = never).
  void fail_after(std::int64_t n);
  // Recounts everything; Error when the invariant is broken.
  void check() const;

 private:
  std::vector<std::int32_t> refs_;
  std::vector<std::int32_t> free_;
  std::int64_t fail_after_ = -1;
};

}  // namespace dream_r
