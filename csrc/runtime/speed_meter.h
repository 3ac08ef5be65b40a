#pragma once
// d and v as they turn out while serving: what a start-up measurement says in a moment holds for
// steps of one length, on a machine that nobody else uses.
#include <algorithm>

#include "runtime/work.h"

namespace dream_r {

// Seconds a token of each kind of pass, as moving averages over the works that came back. Touched
// by one thread; a function of the works it is given alone.
class SpeedMeter {
 public:
  explicit SpeedMeter(const Speeds& start = {}) : speeds_(start) {}

  void add(const Work& work) {
    if (!work.error.empty() || work.forwards == 0) return;
    if (work.kind == WorkKind::decode)
      (work.role == Role::draft ? draft_ : own_).add(work.seconds / work.forwards);
    else if (work.kind == WorkKind::verify && !work.cancelled)
      judged_.add(work.seconds / tokens(work));
    else
      return;
    if (own_.seconds <= 0) return;
    if (draft_.seconds > 0) speeds_.draft = draft_.seconds / own_.seconds;
    if (judged_.seconds > 0) speeds_.verify = judged_.seconds / own_.seconds;
  }
  const Speeds& speeds() const { return speeds_; }

 private:
  // The first of a kind counts in full.
  struct Mean {
    double seconds = 0;
    void add(double value) {
      constexpr double kWeight = 1.0 / 16;  // follows a change within a few dozen steps
      seconds += (seconds > 0 ? kWeight : 1) * (value - seconds);
    }
  };
  static double tokens(const Work& work) {
    std::size_t n = 0;
    for (const Judgement& j : work.judged) n += j.tokens.size();
    return static_cast<double>(std::max<std::size_t>(1, n));
  }

  Speeds speeds_;
  Mean draft_, own_, judged_;
};

}  // namespace dream_r
