#pragma once
// What bench_request prints and writes.
#include <algorithm>
#include <cstdio>

#include "ops/cpu/kernels.h"
#include "request_options.h"
#include "runtime/options.h"

namespace dream_r::bench {

// Times are relative to those of `ar`.
struct Spread {
  double median, least, most;
};

inline Spread spread(std::vector<double> x) {
  std::sort(x.begin(), x.end());
  const auto n = x.size();
  return {(x[(n - 1) / 2] + x[n / 2]) / 2, x.front(), x.back()};
}

struct Result {
  std::string method;
  double p = 0, scripted = 0;  // asked for; of the steps of these requests
  double verdicts = 0;         // accepted, of the verdicts applied
  Spread speed_up{}, reasoning{};
  Speeds speeds{};
  double step = 1, closed = 1, closed_reasoning = 1;
  double wasted = 0, overlap = 0;
};

inline void print_header() {
  std::printf("%-5s %5s  %-24s %-22s %5s %5s %5s %5s %7s %9s %7s %8s\n", "p", "here", "method",
              "speed-up", "d", "v", "r_D", "r_T", "closed", "attained", "wasted", "overlap");
}

inline void print(const Result& r) {
  std::printf(
      "%-5.3g %5.2f  %-24s %5.2fx [%5.2f, %5.2f]   %5.2f %5.2f %5.2f %5.2f %6.2fx %8.0f%% %7.2f "
      "%7.0f%%\n",
      r.p, r.scripted, r.method.c_str(), r.speed_up.median, r.speed_up.least, r.speed_up.most,
      r.speeds.draft, r.speeds.verify, r.speeds.relative_draft, r.speeds.relative_target, r.closed,
      100 * r.speed_up.median / r.closed, r.wasted, 100 * r.overlap);
  std::fflush(stdout);
}

// `layers`, `draft_layers`: what the models had in the end.
inline void write_json(const RequestOptions& o, int layers, int draft_layers,
                       const std::vector<Result>& results) {
  std::FILE* f = std::fopen(o.json.c_str(), "w");
  if (!f) {
    std::perror(o.json.c_str());
    std::exit(1);
  }
  std::fprintf(
      f,
      "{\"bench\": \"request\", \"isa\": \"%s\", \"target\": \"%s\", \"draft\": \"%s\", "
      "\"format\": \"%s\", \"draft_format\": \"%s\", \"layers\": %d, \"draft_layers\": %d, "
      "\"requests\": %d, \"prompt\": %d, \"tokens\": %d, \"answer\": %d, \"step_min\": %d, "
      "\"step_max\": %d, \"suffix\": %d, \"vocab\": %d, \"threads\": %d, \"draft_threads\": %d, "
      "\"seed\": %d, \"cases\": [",
      cpu_isa(), o.target.c_str(), o.draft.c_str(), o.format.c_str(), o.draft_format.c_str(),
      layers, draft_layers, o.requests, o.prompt, o.tokens, o.answer, o.step_min, o.step_max,
      o.suffix, o.vocab, o.threads, o.draft_threads, o.seed);
  const char* comma = "";
  for (const Result& r : results) {
    std::fprintf(f,
                 "%s\n  {\"method\": \"%s\", \"p\": %.4f, \"p_of_steps\": %.4f, "
                 "\"accepted_of_verdicts\": %.4f, \"speed_up\": [%.4f, %.4f, %.4f], "
                 "\"reasoning_speed_up\": [%.4f, %.4f, %.4f], \"d\": %.4f, \"v\": %.4f, "
                 "\"r_D\": %.4f, \"r_T\": %.4f, \"closed\": %.4f, \"closed_reasoning\": %.4f, "
                 "\"attained\": %.4f, \"wasted_per_token\": %.4f, \"overlap\": %.4f}",
                 comma, r.method.c_str(), r.p, r.scripted, r.verdicts, r.speed_up.median,
                 r.speed_up.least, r.speed_up.most, r.reasoning.median, r.reasoning.least,
                 r.reasoning.most, r.speeds.draft, r.speeds.verify, r.speeds.relative_draft,
                 r.speeds.relative_target, r.closed, r.closed_reasoning,
                 r.speed_up.median / r.closed, r.wasted, r.overlap);
    comma = ",";
  }
  std::fprintf(f, "\n]}\n");
  std::fclose(f);
}

}  // namespace dream_r::bench
