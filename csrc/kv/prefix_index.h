#pragma once
// Which prompts are already in the cache: chained hashes of whole blocks of tokens (an image
// token's entry also hashes the image's full digest), least recently used first out. The index
// holds one reference to each of its blocks; evict() gives back what no sequence uses.
#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "kv/sequence.h"

namespace dream_r {

using Digest = std::array<std::uint8_t, 32>;

// One prompt as the index sees it: token ids, and for each image the range of ids it covers.
struct PromptKey {
  std::span<const std::int32_t> tokens;
  struct Image {
    std::int32_t begin, end;
    Digest digest;  // of decoded pixels and the grid
  };
  std::span<const Image> images;
};

class PrefixIndex {
 public:
  explicit PrefixIndex(BlockPool& pool);
  ~PrefixIndex();
  // A sequence that holds the longest cached prefix of whole blocks, at most `tokens.size() - 1`
  // tokens (the last one must be computed to have logits). Empty when nothing matches. Equality is
  // checked on tokens and digests themselves, never on a hash alone.
  KvSequence match(const PromptKey& key);
  // Remembers the whole blocks of `sequence`, which holds the KV of `key`.
  void insert(const PromptKey& key, const KvSequence& sequence);
  // Gives back up to `blocks` blocks that only the index holds; says how many it gave.
  std::int32_t evict(std::int32_t blocks);
  std::int32_t held() const;
  void clear();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace dream_r
