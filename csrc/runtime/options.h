#pragma once
// Every decision of the method that is ours, as a named option with its default (method, section
// 3).
#include <cstdint>
#include <optional>

#include "runtime/script.h"

namespace dream_r {

enum class Method : std::uint8_t { ar, specreason, fpsr };
enum class Race : std::uint8_t { first, verdict };
// How the target's own step runs beside the draft: at once, only after a rejection, without any
// draft.
enum class Mode : std::uint8_t { hedged, sequential, off };
enum class ModeChoice : std::uint8_t { automatic, hedged, sequential, off };
enum class VerifyLane : std::uint8_t { fused, separate };
enum class Judge : std::uint8_t { cpn, digit_greedy, digit_average };

struct EngineOptions {
  Method method = Method::fpsr;
  double alpha = 0.7;  // accept iff rho > alpha
  int window = 4;      // most drafted steps that wait for their commit
  Race race = Race::first;
  ModeChoice mode = ModeChoice::automatic;
  VerifyLane verify = VerifyLane::fused;
  Judge judge = Judge::cpn;
  double digit_threshold = 7;  // specreason: accept iff digit >= threshold
  double min_mass = 0;         // > 0: p+ + p- is computed, and below it the step is rejected
  int max_step_tokens = 256;
  int answer_burst = 64;    // tokens of the answer between two reports
  int proposals = 16;       // tokens the target may read ahead of its own: its answer as the idle
                            // draft would begin it, the rest of a rejected step. 0: none
  int prefill_chunk = 512;  // prompt tokens a forward
  int max_requests = 16;    // admitted at once
  std::int64_t target_kv_tokens = 0,
               draft_kv_tokens = 0;           // 0: what max_requests of 4096 tokens need
  int target_threads = 0, draft_threads = 0;  // 0: all cores / 1
  bool prefix_cache = true;
  bool inline_mode = false;  // no threads: everything runs inside next_event() or wait(), in order
  bool trace = true;
  bool cuda_graphs = true;       // decode on a CUDA device by graphs
  std::optional<Script> script;  // benchmarks and tests: verdicts and lengths laid down in advance
};

// Speeds of the lanes in units of one target step (method, section 5), measured at start and
// running.
struct Speeds {
  double draft = 0.2;            // d
  double verify = 0.2;           // v
  double relative_draft = 1.0;   // r_D: the draft's speed while the target decodes beside it
  double relative_target = 1.0;  // r_T
  // What a further step adds to a verify pass, against a pass of its own: near 0 where a pass is
  // bound by reading the weights, near 1 where by arithmetic.
  double verify_more = 0;
  double rewrite = 1;  // share of a rejected step that the target's own still has to write
};

}  // namespace dream_r
