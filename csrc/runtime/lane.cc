#include "runtime/lane.h"

#include <algorithm>

#include "core/spin.h"

namespace dream_r {

namespace {
// Microseconds that a lane polls before it sleeps while others have works: waking a thread costs
// about what a small model's token does, so they stay awake for as long as its verdict takes
// (politely: see core/spin.h).
constexpr int kHandOffSpin = 2000;

// On a device the target goes first: a verdict may wait for its token, a draft for both.
int priority_of(LaneId id) { return id == LaneId::target ? 2 : id == LaneId::verify ? 1 : 0; }
}  // namespace

Lane::Lane(LaneId id, std::shared_ptr<const Model> model, std::shared_ptr<KvStore> kv,
           const Vocabulary& vocabulary, const EngineOptions& options, int threads,
           LaneClock& clock, HandBack hand_back)
    : id_(id),
      model_(std::move(model)),
      kv_(std::move(kv)),
      options_(options),
      clock_(clock),
      hand_back_(std::move(hand_back)),
      stream_(Stream::on(model_->device(), threads, priority_of(id))),
      arena_(model_->device()),
      pass_(*model_, stream_, arena_, *kv_, keywords_, options.cuda_graphs ? &graphs_ : nullptr),
      context_{*model_, vocabulary, options, stream_} {
  clock_.enrol(id, stream_);
  const auto ids = keyword_ids(vocabulary, options.judge);
  if (id != LaneId::draft && !ids.empty()) keywords_ = model_->keyword_head(ids);
  for (int i = 0; i < kv_->shape().layers; ++i) layers_.push_back({kv_->k(i), kv_->v(i)});
}

Lane::~Lane() {
  stop();
  clock_.retire(id_);
}

void Lane::start() {
  thread_ = std::thread([this] { run(); });
}

void Lane::stop() {
  stopping_.store(true);
  inbox_.close();
  if (thread_.joinable()) thread_.join();
}

void Lane::push(WorkPtr work) {
  clock_.join(id_);
  inbox_.push(std::move(work));
}

void Lane::run() {
  while (!stopping_.load(std::memory_order_relaxed)) {
    if (active_.empty()) {
      spin_until([&] { return !inbox_.empty() || clock_.resting(); }, kHandOffSpin);
      join_works(/*wait=*/true);
    }
    step();
  }
  while (auto work = inbox_.try_pop()) active_.push_back(make_burst(*work, context_));
  for (auto& burst : active_) burst->work().cancel.store(true);
  retire();
}

void Lane::join_works(bool wait) {
  auto next = wait ? inbox_.pop() : inbox_.try_pop();
  for (; next; next = inbox_.try_pop()) {
    const WorkPtr work = *next;
    work->begin = clock_.now();
    try {
      active_.push_back(make_burst(work, context_));
      if (work->copy && !work->cancel.load(std::memory_order_relaxed))
        ops::copy_blocks(stream_, layers_, std::span(&*work->copy, 1));
    } catch (const std::exception& e) {
      fail_all(e.what());
    }
  }
}

bool Lane::step() {
  join_works(/*wait=*/false);
  retire();
  if (active_.empty()) return false;
  try {
    forward();
  } catch (const std::exception& e) {
    clock_.leave(id_);
    fail_all(e.what());
  }
  retire();
  return true;
}

void Lane::forward() {
  const double begin = clock_.now();
  clock_.enter(id_);
  pass_.clear();
  for (auto& burst : active_) burst->plan(pass_);
  pass_.run();
  const double seconds = clock_.now() - begin;
  for (auto& burst : active_) {
    burst->take(pass_);
    Work& work = burst->work();
    if (work.forwards++ == 0) work.first_seconds = seconds;
    work.seconds += seconds;
  }
  clock_.leave(id_);
}

// Hands back what is finished or cancelled.
void Lane::retire() {
  stream_.wait();  // a copy may be under way for a work that never had a pass
  std::erase_if(active_, [&](const std::unique_ptr<Burst>& burst) {
    Work& work = burst->work();
    work.cancelled = !burst->finished() && work.cancel.load(std::memory_order_relaxed);
    if (!burst->finished() && !work.cancelled) return false;
    hand_back(*burst);
    return true;
  });
}

void Lane::hand_back(Burst& burst) {
  Work& work = burst.work();
  work.finish = clock_.now();
  if (options_.trace)
    clock_.add({id_, work.kind, work.answer, work.cancelled, work.request, work.step,
                static_cast<std::int32_t>(work.tokens.size()), work.begin, work.finish});
  hand_back_(burst.handle());
  clock_.part(id_);
}

// One failed pass fails the works in it, never the lane.
void Lane::fail_all(const std::string& error) {
  for (auto& burst : active_) {
    burst->work().error = error;
    hand_back(*burst);
  }
  active_.clear();
}

}  // namespace dream_r
