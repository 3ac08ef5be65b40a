#pragma once
// Drives one Manager through events in any order and compares it with the reference after each.
// Every check throws dream_r::Error; the seed of a schedule replays it.
#include <memory>
#include <string>

#include "fake_tongue.h"
#include "runtime/manager.h"

namespace dream_r::test {

struct Scenario {
  std::uint64_t seed = 0;
  EngineOptions options;
  Language language;
  std::vector<std::shared_ptr<const RequestSpec>> specs;  // request i has id i + 1
  std::int32_t target_blocks = 256, draft_blocks = 256;
  Speeds speeds;
  Tongue tongue = Tongue::same;           // of the draft
  double strange = 0;                     // translations that do not mean what they meant
  std::int32_t draft_positions = 100000;  // where the draft has a tongue of its own
};

class Machine {
 public:
  struct Client {
    Reference ref;
    std::vector<CommittedStep> steps;  // as emitted
    Tokens answer;
    int full_window = 0;  // before memory was short
    bool submitted = false, done = false, asked_cancel = false, was_shed = false;
    FinishReason reason = FinishReason::stop;
    RequestMetrics metrics;
  };

  explicit Machine(const Scenario& scenario);

  // Events.
  void submit(std::size_t request);
  void cancel(std::size_t request);
  void complete(std::size_t job);  // lets an outstanding work come back
  void fail_allocation(Role role, std::int64_t after) { manager.pool(role).fail_after(after); }
  void stop_lanes() {  // works come back unfinished although nobody cancelled them
    for (Job& job : jobs_) job.stopped = true;
  }
  void lane_error(std::size_t job) { jobs_[job].error = true; }

  std::size_t outstanding() const { return jobs_.size(); }
  const Work& work(std::size_t job) const { return *jobs_[job].work; }
  bool all_done() const;
  // Nothing runs: every request must be done, and every block free.
  void finish();
  std::vector<Client>& clients() { return clients_; }

  Manager manager;
  std::function<void(const std::string&)> log;  // of events
  bool lazy_copy = false;  // copies blocks when a work ends, not when it starts
  Random dice;             // of what a cancelled work did before it stopped

 private:
  struct Job {
    WorkPtr work;
    Tokens prefix;  // what the model reads before it writes
    Tokens last;    // the step before
    bool copied = false, error = false, stopped = false;
  };
  Client& client(const Work& w) { return clients_[w.request - 1]; }
  FakeStore& store(const Work& w) { return w.role == Role::draft ? draft_store_ : target_store_; }
  bool other() const { return scenario_.tongue != Tongue::same; }
  bool drafted(const Client& c) const;
  void apply(Actions& actions);
  void observe_shedding(const Actions& actions);
  void take(const Output& out);
  void begin(const WorkPtr& work);
  std::uint64_t context_of(const Work& w, const Tokens& prefix) const;
  void check_inputs(const Job& job, const Client& c) const;
  void run(Job& job);
  void run_translation(const Job& job, bool stale);
  void check_client(const Client& c) const;

  Scenario scenario_;
  Vocabulary vocabulary_;
  DraftTokens draft_tokens_;
  std::unique_ptr<Policy> policy_;
  FakeStore target_store_, draft_store_;
  std::vector<Client> clients_;
  std::vector<Job> jobs_;
};

// A scenario with every option drawn from the seed.
Scenario random_scenario(std::uint64_t seed);
// A plain one: `requests` requests on ample pools.
Scenario plain_scenario(int requests = 1);
// Completes works in the order of their start until nothing runs.
void run_in_order(Machine& machine);
void run_in_random_order(Machine& machine, Random& dice);

std::string describe(const Work& w);

}  // namespace dream_r::test
