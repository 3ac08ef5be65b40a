#pragma once
// Who is busy when. One clock for all lanes: seconds since the engine started, the time each lane
// was busy, the time in which two or more were, and (when tracing) one span a work.
#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <mutex>
#include <vector>

#include "core/stream.h"
#include "runtime/work.h"

namespace dream_r {

enum class LaneId : std::uint8_t { draft, target, verify, text };
constexpr int kLanes = 3;  // those that compute, the first of these

struct LaneTimes {
  std::array<double, kLanes> busy{};
  double overlap = 0;
};

struct Span {
  LaneId lane = LaneId::draft;
  WorkKind kind = WorkKind::decode;
  bool answer = false, cancelled = false;
  RequestId request = 0;
  std::int32_t step = 0;
  std::int32_t tokens = 0;
  double begin = 0, end = 0;
};

class LaneClock {
 public:
  explicit LaneClock(int cores) : start_(std::chrono::steady_clock::now()), cores_(cores) {}

  double now() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  }

  // A lane's stream, before its first work and until retire(): its team is limited from here.
  void enrol(LaneId lane, Stream& stream) {
    std::lock_guard lock(mutex_);
    streams_[static_cast<int>(lane)] = &stream;
  }
  void retire(LaneId lane) {
    std::lock_guard lock(mutex_);
    streams_[static_cast<int>(lane)] = nullptr;
  }
  // A work is given to a lane, and has come back. From the first to the last of them the lane's
  // cores are claimed: not forward by forward, for it needs them again a moment later.
  void join(LaneId lane) {
    std::lock_guard lock(mutex_);
    if (++works_[static_cast<int>(lane)] > 1) return;
    share();
    resting_.store(false, std::memory_order_relaxed);
  }
  void part(LaneId lane) {
    std::lock_guard lock(mutex_);
    if (--works_[static_cast<int>(lane)] > 0) return;
    share();
    if (std::ranges::any_of(works_, [](int works) { return works > 0; })) return;
    resting_.store(true, std::memory_order_relaxed);
    for (Stream* stream : streams_)
      if (stream) stream->rest();
  }
  // No lane has a work: none will come from another lane, and nobody need stay awake for one.
  bool resting() const { return resting_.load(std::memory_order_relaxed); }
  // A forward begins and ends: who is busy when.
  void enter(LaneId lane) {
    std::lock_guard lock(mutex_);
    mark(lane, true);
  }
  void leave(LaneId lane) {
    std::lock_guard lock(mutex_);
    mark(lane, false);
  }

  LaneTimes times() {
    std::lock_guard lock(mutex_);
    advance();
    return times_;
  }
  void add(Span span) {
    std::lock_guard lock(mutex_);
    spans_.push_back(span);
  }
  std::vector<Span> spans() {
    std::lock_guard lock(mutex_);
    return spans_;
  }

 private:
  // The draft's claim counts in full (it is small); the target and the verifier take what the other
  // lanes with works leave them, half of the cores where they leave nothing. Takes effect at the
  // next op of a forward that runs.
  void share() {
    for (int lane = 0; lane < kLanes; ++lane) {
      if (!streams_[lane] || lane == static_cast<int>(LaneId::draft)) continue;
      int others = 0;
      for (int i = 0; i < kLanes; ++i)
        if (i != lane && works_[i] > 0 && streams_[i]) others += streams_[i]->threads();
      const int left = others >= cores_ ? cores_ / 2 : cores_ - others;
      streams_[lane]->limit(std::max(1, std::min(streams_[lane]->threads(), left)));
    }
  }

  void advance() {
    const double t = now();
    int busy = 0;
    for (int i = 0; i < kLanes; ++i)
      if (busy_[i]) ++busy, times_.busy[i] += t - last_;
    if (busy > 1) times_.overlap += t - last_;
    last_ = t;
  }
  void mark(LaneId lane, bool busy) {
    advance();
    busy_[static_cast<int>(lane)] = busy;
  }

  const std::chrono::steady_clock::time_point start_;
  const int cores_;
  std::mutex mutex_;
  std::array<Stream*, kLanes> streams_{};
  std::array<int, kLanes + 1> works_{};
  std::array<bool, kLanes> busy_{};
  std::atomic<bool> resting_{true};
  LaneTimes times_;
  double last_ = 0;
  std::vector<Span> spans_;
};

}  // namespace dream_r
