// Time of the manager per event (a work that comes back: the decision, the next works, their block
// tables), without any lane. bench_manager [--json PATH] [--events N]; bar: 5 us an event.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iostream>
#include <string>

#include "runtime/manager.h"

namespace dream_r {
namespace {

constexpr std::int32_t kWord = 8, kBoundary = 0, kStepTokens = 40;

struct Case {
  int requests;
  std::int32_t context;
  double median = 0, p10 = 0, p90 = 0, p99 = 0;  // us
  std::size_t events = 0;
};

std::shared_ptr<const RequestSpec> make_spec(std::int32_t context, int seed) {
  auto spec = std::make_shared<RequestSpec>();
  for (std::int32_t i = 0; i < context; ++i)
    spec->target.ids.push_back(kWord + (i * 7 + seed) % 999);
  spec->draft.ids = spec->target.ids;
  spec->thinking_budget = 4096;
  spec->max_tokens = 64;
  return spec;
}

Vocabulary make_vocabulary() {
  Vocabulary v;
  v.classes.assign(2048, 0);
  v.classes[kBoundary] = token_class::blank_line | token_class::ends_newline;
  v.eos = {2};
  v.think_end = 1;
  v.forced_end = {1};
  v.suffix.assign(24, 5);
  return v;
}

// Three verdicts of four accept.
void complete(Work& w, std::uint64_t turn) {
  w.written = w.cached;
  if (w.cancel) {
    w.cancelled = true;
    return;
  }
  w.written += static_cast<std::int32_t>(w.feed.size());
  if (w.kind == WorkKind::prefill) w.next_token = kWord;
  if (w.kind == WorkKind::decode) {
    const auto n = std::min(kStepTokens, w.limit);
    w.tokens.assign(static_cast<std::size_t>(n), kWord + static_cast<std::int32_t>(turn % 999));
    w.tokens.back() = kBoundary;
    w.end = w.answer ? StepEnd::limit : StepEnd::boundary;
    w.written += n - 1;
  }
  for (Judgement& j : w.judged) {
    j.rho = turn % 4 ? 1.0f : 0.0f;
    j.next_token = kWord;
    w.written += static_cast<std::int32_t>(j.tokens.size());
  }
}

void measure(Case& c, std::size_t events) {
  EngineOptions options;
  options.mode = ModeChoice::hedged;
  const auto blocks = c.requests * ((c.context + 4096) / 16 + 200);
  Manager manager(options, make_vocabulary(), blocks, blocks);
  std::deque<WorkPtr> running;
  Actions actions;
  const auto collect = [&] {
    for (auto& w : actions.start) running.push_back(std::move(w));
    actions.start.clear(), actions.emit.clear();
  };
  RequestId id = 0;
  std::vector<double> times;
  times.reserve(events);
  for (std::uint64_t turn = 0; times.size() < events; ++turn) {
    while (manager.live() < static_cast<std::size_t>(c.requests)) {
      manager.submit(++id, make_spec(c.context, static_cast<int>(id)), actions);
      collect();
    }
    const WorkPtr work = std::move(running.front());
    running.pop_front();
    complete(*work, turn);
    const auto begin = std::chrono::steady_clock::now();
    manager.done(work, actions);
    const std::chrono::duration<double, std::micro> took = std::chrono::steady_clock::now() - begin;
    if (work->kind != WorkKind::prefill) times.push_back(took.count());
    collect();
  }
  std::sort(times.begin(), times.end());
  const auto at = [&](double q) { return times[static_cast<std::size_t>(q * (times.size() - 1))]; };
  c.median = at(0.5), c.p10 = at(0.1), c.p90 = at(0.9), c.p99 = at(0.99), c.events = times.size();
}

int run(int argc, char** argv) {
  std::string json;
  std::size_t events = 50000;
  for (int i = 1; i < argc; ++i) {
    if (!std::strcmp(argv[i], "--json") && i + 1 < argc) {
      json = argv[++i];
    } else if (!std::strcmp(argv[i], "--events") && i + 1 < argc) {
      events = std::max<std::size_t>(100, std::stoul(argv[++i]));
    } else {
      std::cout << "bench_manager [--json PATH] [--events N]: us per event of the manager\n";
      return std::strcmp(argv[i], "--help") ? 2 : 0;
    }
  }
  std::string rows;
  for (Case c : {Case{1, 1024}, Case{1, 32768}, Case{16, 1024}, Case{16, 32768}}) {
    measure(c, events);
    std::printf("%2d requests, %5d tokens: %.2f us (10%% %.2f, 90%% %.2f, 99%% %.2f)\n", c.requests,
                c.context, c.median, c.p10, c.p90, c.p99);
    char row[256];
    std::snprintf(row, sizeof row,
                  "%s{\"requests\": %d, \"context\": %d, \"events\": %zu, \"median_us\": %.3f, "
                  "\"p10_us\": %.3f, \"p90_us\": %.3f, \"p99_us\": %.3f}",
                  rows.empty() ? "" : ", ", c.requests, c.context, c.events, c.median, c.p10, c.p90,
                  c.p99);
    rows += row;
  }
  if (!json.empty())
    std::ofstream(json) << "{\"bench\": \"manager\", \"cases\": [" << rows << "]}\n";
  return 0;
}

}  // namespace
}  // namespace dream_r

int main(int argc, char** argv) { return dream_r::run(argc, argv); }
