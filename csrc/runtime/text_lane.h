#pragma once
// The lane without a model: puts steps into the other model's tokens, one work at a time, on a
// thread of its own. The translator is the caller's code (in Python it waits for the interpreter),
// so neither the manager nor a lane that computes ever runs it.
#include <atomic>
#include <functional>
#include <span>
#include <thread>
#include <vector>

#include "core/channel.h"
#include "runtime/lane_clock.h"
#include "runtime/vocabulary.h"
#include "runtime/work.h"

namespace dream_r {

// One step of the model `from` as the other model reads it: a function of the step alone. Called
// from one thread at a time; what it throws fails the request.
using Translator =
    std::function<std::vector<std::int32_t>(Role from, std::span<const std::int32_t> step)>;

// What an engine needs where the tokenizers of its pair differ.
struct Translation {
  Vocabulary draft;  // classes, eos, think_end and suppressed of the draft's tokenizer
  Translator translate;
};

class TextLane {
 public:
  using HandBack = std::function<void(WorkPtr)>;  // called on the lane's thread

  TextLane(Translator translate, std::int32_t target_vocab, std::int32_t draft_vocab,
           LaneClock& clock, HandBack hand_back);
  ~TextLane();  // stops and joins

  void start();  // its thread; without it, step() is called by the owner (inline mode)
  void stop();   // no more works; hands back what waits as cancelled, joins
  void push(WorkPtr work) {
    clock_.join(LaneId::text);
    inbox_.push(std::move(work));
  }
  // Everything that waits. False when there was nothing.
  bool step();

 private:
  void serve(const WorkPtr& work);
  void translate(Work& work) const;

  const Translator translate_;
  const std::int32_t target_vocab_, draft_vocab_;
  LaneClock& clock_;
  const HandBack hand_back_;
  Channel<WorkPtr> inbox_;
  std::atomic<bool> stopping_{false};
  std::thread thread_;
};

}  // namespace dream_r
