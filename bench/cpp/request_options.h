#pragma once
// The command line of bench_request.
#include <cstdio>
#include <cstdlib>
#include <map>
#include <sstream>
#include <string>
#include <vector>

namespace dream_r::bench {

struct RequestOptions {
  std::string target = "2B", draft = "0.6B";
  std::string format = "bf16", draft_format;  // the draft's: the target's, if not named
  std::string device = "cpu", draft_device;   // the draft's: the target's, if not named
  int layers = 0, draft_layers = 0;           // 0: all
  int vocab = 0;                              // 0: all of it
  int requests = 5, prompt = 128, tokens = 480, answer = 96;
  int step_min = 12, step_max = 20, suffix = 8;
  std::vector<double> acceptance = {0.2, 0.35, 0.5, 0.635, 0.8, 0.9, 0.95};
  std::vector<std::string> methods = {"specreason", "fpsr"};
  int threads = 0, draft_threads = 0;
  int seed = 1;
  std::string json;
};

constexpr const char* kRequestHelp =
    R"(bench_request: whole requests, speculative against the target alone

Models of a true shape with random weights go through the real engine: forwards, lanes, caches and
verification passes are those of any request. Two things are scripted, since random weights have no
opinion: a drafted step is accepted with chance p, and steps have lengths drawn from a seed. Both
follow from the request and the step alone, so every method meets the same verdicts and writes the
same number of tokens: a ratio of times is a ratio of work, never of shorter texts.

Every request is run by every method in turn, `ar` (the target alone) among them.

  --target NAME, --draft NAME   0.6B 2B 4B 8B 32B 30B-A3B 235B-A22B       (2B, 0.6B)
  --format w4|bf16, --draft-format   w4: layers in INT4, head in bf16     (bf16, as the target)
  --device cpu|cuda|cuda:1, --draft-device                                (cpu, as the target)
  --layers N, --draft-layers N, --vocab N
                                cut to so many, for a small machine       (all)
  --requests N                  of each method at each p                  (5)
  --prompt N --tokens N --answer N   tokens read, thought and answered    (128, 480, 96)
  --steps MIN MAX               tokens of a step                          (12 20)
  --acceptance LIST             chances p                     (0.2,0.35,0.5,0.635,0.8,0.9,0.95)
  --methods LIST                names or how they begin: specreason,
                                fpsr:auto|hedged|sequential:fused|separate (specreason,fpsr)
  --suffix N                    tokens of the question to the verifier    (8)
  --threads N --draft-threads N cores of the target and of the draft      (all, 1)
  --seed N, --json PATH

Columns. here: the share of yes among the verdicts on the steps of these requests. speed-up: median
over requests of (seconds of ar / seconds), whole requests, with the range. d, v: a drafted step and
its verdict in units of the target's own step; r_D, r_T: speeds of draft and target beside one
another; all four as the engine measured them when it started, of steps of 16 tokens and a question
of 8. closed: what the closed forms expect of them at that share (specreason and sequential
d + v + 1 - p a step; hedged the form for one device; auto the best of these and 1), over the
reasoning's share of ar's time. attained: speed-up / closed; above 100 % where the draft runs on
while a verdict is out, which those forms leave out. wasted: tokens sampled and thrown away, per
token of the text. overlap: share of the time in which two lanes were busy.
)";

[[noreturn]] inline void refuse(const std::string& why) {
  std::fprintf(stderr, "bench_request: %s (--help explains)\n", why.c_str());
  std::exit(2);
}

inline std::vector<std::string> split(const std::string& list) {
  std::vector<std::string> parts;
  std::stringstream in(list);
  for (std::string part; std::getline(in, part, ',');) parts.push_back(part);
  return parts;
}

template <class T>
T number(const std::string& text, const std::string& option) {
  T value{};
  std::stringstream in(text);
  if (!(in >> value) || !in.eof() || value < 0) refuse(option + " " + text + " is no number");
  return value;
}

inline void check_request_options(RequestOptions& o) {
  if (o.draft_format.empty()) o.draft_format = o.format;
  if (o.draft_device.empty()) o.draft_device = o.device;
  for (const std::string& f : {o.format, o.draft_format})
    if (f != "w4" && f != "bf16") refuse("format " + f + " is neither w4 nor bf16");
  if (o.requests < 1 || o.prompt < 2 || o.tokens < 1 || o.suffix < 1)
    refuse("requests, prompt, tokens and suffix must be at least 1, 2, 1 and 1");
}

inline RequestOptions parse_request_options(int argc, char** argv) {
  RequestOptions o;
  const std::map<std::string, std::string*> texts = {
      {"--target", &o.target}, {"--draft", &o.draft},
      {"--format", &o.format}, {"--draft-format", &o.draft_format},
      {"--device", &o.device}, {"--draft-device", &o.draft_device},
      {"--json", &o.json}};
  const std::map<std::string, std::vector<int*>> counts = {{"--layers", {&o.layers}},
                                                           {"--draft-layers", {&o.draft_layers}},
                                                           {"--vocab", {&o.vocab}},
                                                           {"--requests", {&o.requests}},
                                                           {"--prompt", {&o.prompt}},
                                                           {"--tokens", {&o.tokens}},
                                                           {"--answer", {&o.answer}},
                                                           {"--steps", {&o.step_min, &o.step_max}},
                                                           {"--suffix", {&o.suffix}},
                                                           {"--threads", {&o.threads}},
                                                           {"--draft-threads", {&o.draft_threads}},
                                                           {"--seed", {&o.seed}}};
  for (int i = 1; i < argc; ++i) {
    const std::string arg = argv[i];
    const auto value = [&]() -> std::string {
      if (i + 1 >= argc) refuse(arg + " needs a value");
      return argv[++i];
    };
    if (arg == "--help") {
      std::fputs(kRequestHelp, stdout);
      std::exit(0);
    }
    if (texts.contains(arg)) {
      *texts.at(arg) = value();
    } else if (counts.contains(arg)) {
      for (int* count : counts.at(arg)) *count = number<int>(value(), arg);
    } else if (arg == "--methods") {
      o.methods = split(value());
    } else if (arg == "--acceptance") {
      o.acceptance.clear();
      for (const std::string& p : split(value())) o.acceptance.push_back(number<double>(p, arg));
    } else {
      refuse("unknown option " + arg);
    }
  }
  check_request_options(o);
  return o;
}

}  // namespace dream_r::bench
