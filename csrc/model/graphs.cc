#include "model/graphs.h"

#include <algorithm>

namespace dream_r {

bool Graphs::fit(const Stream& stream, const Plan& plan) {
  return stream.device().on_cuda() && plan.visuals.empty() && plan.rows.many.count == 0 &&
         plan.rows.few.max_q_len == 1 && plan.tokens == plan.rows.few.count;
}

ForwardResult Graphs::run(Stream& stream, Arena& arena, const Plan& plan,
                          const std::function<ForwardResult()>& forward) {
  // Captured kernels hold the address of the scratch that was there.
  if (stream.scratch_generation() != scratch_) entries_.clear();
  scratch_ = stream.scratch_generation();
  const Key key{plan.full, plan.keywords, plan.rows.few.count, plan.rows.few.max_keys};
  const auto [found, first] = entries_.try_emplace(key);
  Entry& entry = found->second;
  entry.used = ++runs_;
  if (first) {
    drop_oldest();
    return forward();
  }
  if (!entry.graph) {
    cuda::Capture capture(stream.cuda());
    entry.result = forward();
    entry.end = arena.mark();
    entry.graph = capture.end();
  }
  arena.rewind(entry.end);
  entry.graph.launch(stream.cuda());
  return entry.result;
}

void Graphs::drop_oldest() {
  if (entries_.size() <= most_) return;
  entries_.erase(
      std::min_element(entries_.begin(), entries_.end(),
                       [](const auto& a, const auto& b) { return a.second.used < b.second.used; }));
}

std::size_t Graphs::captured() const {
  return static_cast<std::size_t>(std::count_if(
      entries_.begin(), entries_.end(), [](const auto& e) { return bool(e.second.graph); }));
}

}  // namespace dream_r
