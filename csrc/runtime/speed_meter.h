#pragma once
// d and v as they turn out while serving: what a start-up measurement says in a moment holds for
// steps of one length, on a machine that nobody else uses.
#include <algorithm>

#include "runtime/work.h"

namespace dream_r {

// Seconds a token of each kind of pass, as moving averages over the works that came back. Touched
// by one thread at a time; a function of the works it is given alone.
class SpeedMeter {
 public:
  explicit SpeedMeter(const Speeds& start = {}) : speeds_(start) {}

  void add(const Work& work) {
    if (!work.error.empty() || (work.forwards == 0 && !work.rewrites)) return;
    // One that first catches up with what others wrote says little of writing.
    if (work.kind == WorkKind::decode && work.feed.size() > kFew) return;
    const bool drafts = work.kind == WorkKind::decode && work.role == Role::draft;
    if (drafts)
      draft_.add(work.seconds, work.forwards);
    else if (work.kind == WorkKind::decode && work.proposed.empty())
      own_.add(work.seconds, work.forwards);
    else if (work.kind == WorkKind::decode)  // without the pass that read what was proposed
      own_.add(work.seconds - work.first_seconds, work.forwards - 1);
    else if (work.kind == WorkKind::verify && !work.cancelled)
      judged_.add(work.seconds, tokens(work));
    else
      return;
    if (drafts && work.rewrites)
      rewritten_.seconds += work.seconds;  // the target waits for it
    else if (work.rewrites && !work.cancelled)
      rewritten_.add(work.seconds, static_cast<double>(work.tokens.size()));
    if (own_.tokens <= 0) return;
    if (rewritten_.tokens > 0) speeds_.rewrite = std::min(1.0, rewritten_.each() / own_.each());
    if (draft_.tokens > 0) speeds_.draft = draft_.each() / own_.each();
    if (judged_.tokens > 0) speeds_.verify = judged_.each() / own_.each();
  }
  const Speeds& speeds() const { return speeds_; }

 private:
  static constexpr std::size_t kFew = 2;
  // Of fading sums, so that a step counts by its tokens: a pass over a short one costs more a
  // token.
  struct Mean {
    double seconds = 0, tokens = 0;
    void add(double time, double count) {
      if (count <= 0) return;              // else the sums would fade to nothing
      constexpr double kKept = 15.0 / 16;  // follows a change within a few dozen steps
      seconds = kKept * seconds + time;
      tokens = kKept * tokens + count;
    }
    double each() const { return seconds / tokens; }
  };
  static double tokens(const Work& work) {
    std::size_t n = 0;
    for (const Judgement& j : work.judged) n += j.tokens.size();
    return static_cast<double>(std::max<std::size_t>(1, n));
  }

  Speeds speeds_;
  Mean draft_, own_, judged_, rewritten_;
};

}  // namespace dream_r
