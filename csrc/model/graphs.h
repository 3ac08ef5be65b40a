#pragma once
// One lane's decode forwards as CUDA graphs: a whole forward is started by one call. Numbers of the
// batch lie in device memory, written anew before every launch, so a graph serves every batch of
// the same counts whose keys stay below its bound (ops::AttentionRows::Part). Few counts occur:
// batches are filled up (model/padding.h).
#include <cstdint>
#include <functional>
#include <map>

#include "core/arena.h"
#include "core/cuda.h"
#include "core/stream.h"
#include "model/batch.h"
#include "model/plan.h"

namespace dream_r {

class Graphs {
 public:
  // Keeps at most so many kinds of forward, those that ran last.
  explicit Graphs(std::size_t most = 64) : most_(most) {}
  // Runs `forward`, which takes its memory from `arena` behind the plan's: itself the first time
  // that a plan's counts are met, so that all that grows has grown; captured the second time;
  // from then on as a graph. Belongs to one stream, arena, model and cache.
  ForwardResult run(Stream& stream, Arena& arena, const Plan& plan,
                    const std::function<ForwardResult()>& forward);
  // Where every row is one token of text, on a CUDA device.
  static bool fit(const Stream& stream, const Plan& plan);
  std::size_t captured() const;  // graphs that are there

 private:
  struct Key {
    std::int64_t full, keywords;
    int rows, max_keys;
    auto operator<=>(const Key&) const = default;
  };
  struct Entry {
    cuda::Graph graph;
    ForwardResult result;
    Arena::Mark end;
    std::uint64_t used = 0;  // the run that had it last
  };
  void drop_oldest();  // of one too many

  std::size_t most_;
  std::map<Key, Entry> entries_;
  std::uint64_t runs_ = 0;
  std::uint64_t scratch_ = 0;  // the stream's generation that they were captured in
};

}  // namespace dream_r
