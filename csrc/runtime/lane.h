#pragma once
// A lane runs works for one model on its own thread, stream and arena. Works join and leave at
// token boundaries: every pass is one forward over a row of each active work (continuous batching).
// It sees block tables and never the pools; it hands every work back exactly once.
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "core/channel.h"
#include "model/graphs.h"
#include "runtime/burst.h"
#include "runtime/lane_clock.h"

namespace dream_r {

class Lane {
 public:
  using HandBack = std::function<void(WorkPtr)>;  // called on the lane's thread

  Lane(LaneId id, std::shared_ptr<const Model> model, std::shared_ptr<KvStore> kv,
       const Vocabulary& vocabulary, const EngineOptions& options, int threads, LaneClock& clock,
       HandBack hand_back);
  ~Lane();  // stops and joins

  void start();  // its thread; without it, step() is called by the owner (inline mode)
  void stop();   // no more works; cancels what runs, hands it back, joins
  void push(WorkPtr work);
  // One forward over everything active. False when there was nothing to do.
  bool step();

 private:
  void run();
  void join_works(bool wait);
  void forward();
  void retire();
  void hand_back(Burst& burst);
  void fail_all(const std::string& error);

  const LaneId id_;
  const std::shared_ptr<const Model> model_;
  const std::shared_ptr<KvStore> kv_;
  const EngineOptions& options_;
  LaneClock& clock_;
  HandBack hand_back_;
  Stream stream_;
  Arena arena_;
  Graphs graphs_;
  LinearWeight keywords_;
  Pass pass_;
  std::vector<ops::KvLayer> layers_;
  BurstContext context_;
  Channel<WorkPtr> inbox_;
  std::vector<std::unique_ptr<Burst>> active_;
  std::atomic<bool> stopping_{false};
  std::thread thread_;
};

}  // namespace dream_r
