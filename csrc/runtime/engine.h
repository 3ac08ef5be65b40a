#pragma once
// The real runtime: a manager that owns all request state and runs on the thread that brings an
// event, a lane a model (one for verification by a switch, one for text where tokenizers differ), a
// mailbox a request. See csrc/README.md for owners and threads.
#include <atomic>
#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <optional>

#include "core/channel.h"
#include "runtime/lane.h"
#include "runtime/manager.h"
#include "runtime/speed_meter.h"
#include "runtime/text_lane.h"

namespace dream_r {

// What a caller reads of its request, in order; committed steps are never retracted. Times are
// seconds since the request was submitted.
struct EngineEvent {
  Output output;
  double at = 0;
  // of a `done`:
  std::array<double, kLanes> lane_seconds{};  // of this request's works
  double overlap_seconds = 0;  // two lanes busy at once (the whole engine, while the request lived)
  double prefill_seconds = 0, first_step_seconds = 0, answer_begin = 0;
  double translate_seconds = 0;  // of the text lane
  std::int64_t target_forwards = 0;
};

class Engine {
 public:
  // `draft` may be null for Method::ar. `translation`: where its tokenizer is not the target's.
  Engine(std::shared_ptr<const Model> target, std::shared_ptr<const Model> draft,
         Vocabulary vocabulary, const EngineOptions& options,
         std::optional<Translation> translation = {});
  ~Engine();

  // Error (input) when the request can never run here. Any thread.
  RequestId submit(std::shared_ptr<const RequestSpec> spec);
  // The next event of a request; nothing when none came within `timeout` seconds. After `done` the
  // request is forgotten.
  std::optional<EngineEvent> next_event(RequestId id, double timeout);
  // True as soon as the request has ended, when all its events can be read without waiting; false
  // after `timeout` seconds. Cheaper than reading each as it comes: nobody is woken between.
  bool wait(RequestId id, double timeout);
  // Raises the request's epoch; its `done` (cancelled) follows. Unknown ids are ignored.
  void cancel(RequestId id);
  void close();

  LaneTimes lane_times() { return clock_.times(); }
  std::vector<Span> spans() { return clock_.spans(); }
  const EngineOptions& options() const { return options_; }
  const Speeds& speeds() const { return speeds_; }
  struct PoolStats {
    std::int32_t target_total, target_used, draft_total, draft_used;
    std::size_t live, in_flight;
  };
  PoolStats pool_stats();  // asks the manager
  void drop_prefixes();    // forgets cached prompts

 private:
  struct Event {
    enum class Kind : std::uint8_t { submit, cancel, done, stats, drop } kind = Kind::submit;
    RequestId request = 0;
    std::shared_ptr<const RequestSpec> spec;
    WorkPtr work;
    std::shared_ptr<Channel<PoolStats>> reply;
  };
  struct Mailbox {
    std::deque<EngineEvent> events;
    EngineEvent totals;  // what accumulates until `done`
    double submitted = 0, overlap_before = 0;
    bool finished = false;
  };

  void post(Event event);  // any thread
  void manage() noexcept;  // handles events until none is left
  template <class F>
  bool await(std::unique_lock<std::mutex>& lock, RequestId id, double timeout,
             std::condition_variable& changed, F&& ready);
  void handle(Event& event);
  void account(const Work& work);
  void deliver(Actions& actions);
  bool pump();  // inline mode: one round of events and lanes; false when nothing moved
  void make_lanes();
  void push(WorkPtr work);  // to its lane
  void check_request(const RequestSpec& spec) const;

  const EngineOptions options_;
  const std::shared_ptr<const Model> target_, draft_;
  const Vocabulary vocabulary_;
  const std::optional<Translation> translation_;
  LaneClock clock_;
  Speeds speeds_;     // as measured at start
  SpeedMeter meter_;  // the manager's
  std::shared_ptr<KvStore> target_kv_, draft_kv_;
  Manager manager_;
  Channel<Event> events_;
  std::unique_ptr<Lane> target_lane_, draft_lane_, verify_lane_;
  std::unique_ptr<TextLane> text_lane_;
  std::mutex mail_mutex_;
  std::condition_variable mail_, ended_;  // an event has come; a request has ended
  std::map<RequestId, Mailbox> mailboxes_;
  std::atomic<RequestId> next_id_{0};
  std::mutex pump_mutex_;  // inline mode: one caller at a time
  bool closed_ = false;
  std::atomic<std::int64_t> unhandled_{0};  // events; above 0: some thread is the manager
};

}  // namespace dream_r
