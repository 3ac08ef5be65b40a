// Whole requests through the real engine with scripted verdicts and lengths, against the target
// alone and the closed forms (--help says more).
#include "model/vl_model.h"
#include "request_arms.h"
#include "request_report.h"
#include "runtime/engine.h"
#include "shapes.h"

using namespace dream_r;
using namespace dream_r::bench;

namespace {

std::shared_ptr<const Model> make_model(const std::string& name, const std::string& format,
                                        const std::string& device, int layers, int vocab,
                                        std::uint32_t seed) {
  ModelConfig config = qwen_model(name);
  if (layers > 0) config.text.layers = std::min(layers, config.text.layers);
  if (vocab > 0) config.text.vocab = std::min(vocab, config.text.vocab);
  if (format == "w4") config = quantised(config);
  const LoadOptions load{DType::bf16, static_cast<int>(std::thread::hardware_concurrency()),
                         parse_device(device)};
  const auto begin = std::chrono::steady_clock::now();
  auto model = random_model(config, load, seed);
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
  std::fprintf(stderr, "%s %s, %d layers: %.2f GB made in %.1f s\n", name.c_str(), format.c_str(),
               config.text.layers, static_cast<double>(model->weight_bytes()) / 1e9, took.count());
  return model;
}

struct Run {
  double seconds = 0, reasoning = 0, overlap = 0;
  RequestMetrics metrics;
};

Run run(Engine& engine, std::shared_ptr<const RequestSpec> spec) {
  const RequestId id = engine.submit(std::move(spec));
  while (const auto e = engine.next_event(id, 3600)) {
    if (e->output.kind != Output::Kind::done) continue;
    DR_STATE(e->output.error.empty()) << e->output.error;
    return {e->at, e->answer_begin - e->prefill_seconds, e->overlap_seconds, e->output.metrics};
  }
  DR_FAIL(state) << "an hour without an event";
}

// An arm at one p: its engine and what came of it.
struct Line {
  Arm arm;
  std::unique_ptr<Engine> engine;
  std::vector<Run> runs;
};

double ratio(double a, double b) { return b > 0 ? a / b : 0; }

Result summarise(const Line& line, const std::vector<Run>& alone, double p, double scripted) {
  Result r{.method = line.arm.name, .p = p, .scripted = scripted};
  std::vector<double> whole, reasoning;
  double seconds = 0, overlap = 0, wasted = 0, tokens = 0, accepted = 0, verdicts = 0;
  double thought = 0, total = 0;  // of ar
  for (std::size_t i = 0; i < line.runs.size(); ++i) {
    const Run& run = line.runs[i];
    const RequestMetrics &m = run.metrics, &of_ar = alone[i].metrics;
    DR_STATE(m.reasoning_tokens == of_ar.reasoning_tokens && m.answer_tokens == of_ar.answer_tokens)
        << line.arm.name << " wrote another number of tokens than ar";
    whole.push_back(alone[i].seconds / run.seconds);
    reasoning.push_back(alone[i].reasoning / run.reasoning);
    seconds += run.seconds, overlap += run.overlap;
    thought += alone[i].reasoning, total += alone[i].seconds;
    wasted += static_cast<double>(m.wasted_draft_tokens + m.wasted_target_tokens);
    tokens += static_cast<double>(m.reasoning_tokens + m.answer_tokens);
    accepted += static_cast<double>(m.accepted);
    verdicts += static_cast<double>(m.accepted + m.rejected);
  }
  r.speed_up = spread(whole), r.reasoning = spread(reasoning);
  r.verdicts = ratio(accepted, verdicts);
  r.speeds = line.engine->speeds();
  r.step = closed_form(line.arm.options, scripted, r.speeds);
  r.closed_reasoning = 1 / r.step;
  const double share = ratio(thought, total);
  r.closed = 1 / ((1 - share) + share * r.step);
  r.wasted = ratio(wasted, tokens), r.overlap = ratio(overlap, seconds);
  return r;
}

class Bench {
 public:
  explicit Bench(const RequestOptions& o)
      : options_(o),
        arms_(chosen_arms(o)),
        target_(make_model(o.target, o.format, o.device, o.layers, o.vocab, 1)),
        draft_(make_model(o.draft, o.draft_format, o.draft_device, o.draft_layers, o.vocab, 2)) {}

  void run_all() {
    std::printf(
        "%s %s x %d layers, draft %s %s x %d layers, %s; %d requests of %d + %d + %d tokens\n",
        options_.target.c_str(), options_.format.c_str(), target_->config().text.layers,
        options_.draft.c_str(), options_.draft_format.c_str(), draft_->config().text.layers,
        where().c_str(), options_.requests, options_.prompt, options_.tokens, options_.answer);
    print_header();
    for (const double p : options_.acceptance) {
      run_at(p);
      if (options_.json.empty()) continue;  // else after every p: a run that is stopped has some
      write_json(options_, target_->config().text.layers, draft_->config().text.layers, results_);
    }
  }

 private:
  Script script(double p) const {
    const auto seed = static_cast<std::uint64_t>(options_.seed);
    return {p, options_.step_min, options_.step_max, seed};
  }
  std::shared_ptr<RequestSpec> request(int number) const {
    return make_request(options_, number, target_->config().text.vocab);
  }

  std::string where() const {
    const Device target = target_->device(), draft = draft_->device();
    const auto name = [](Device d) { return d.on_cuda() ? d.str() : std::string(cpu_isa()); };
    return target == draft ? name(target) : name(target) + " and " + name(draft);
  }
  // The share of the steps of these requests whose verdict is yes.
  double scripted(double p) const {
    double yes = 0, steps = 0;
    for (int i = 1; i <= options_.requests; ++i) {
      const auto spec = request(i);
      for (std::int32_t step = 0, tokens = 0; tokens < options_.tokens; ++step, ++steps) {
        tokens += step_tokens(script(p), *spec, step);
        yes += accepts(script(p), *spec, step);
      }
    }
    return yes / steps;
  }

  Line make_line(Arm arm, double p) const {
    EngineOptions& e = arm.options;
    e.script = script(p);
    e.max_requests = 1;
    e.target_threads = options_.threads, e.draft_threads = options_.draft_threads;
    // One request, its window and its questions.
    e.target_kv_tokens = 2 * (options_.prompt + options_.tokens + options_.answer) + 1024;
    e.prefix_cache = false, e.trace = false;
    std::fprintf(stderr, "p %.3f: starting %s\n", p, arm.name.c_str());
    auto engine = std::make_unique<Engine>(target_, draft_, make_vocabulary(options_.suffix), e);
    auto warm = request(0);
    warm->thinking_budget = std::min(options_.tokens, 3 * options_.step_max);
    warm->max_tokens = std::min(options_.answer, 8);
    run(*engine, warm);
    return {std::move(arm), std::move(engine), {}};
  }

  void run_at(double p) {
    Arm alone{"ar", {}};
    alone.options.method = Method::ar;
    std::vector<Line> lines;
    lines.push_back(make_line(alone, p));
    for (const Arm& arm : arms_) lines.push_back(make_line(arm, p));
    for (int i = 1; i <= options_.requests; ++i) {
      for (Line& line : lines) line.runs.push_back(run(*line.engine, request(i)));
      std::fprintf(stderr, "p %.3f: request %d of %d, ar %.2f s\n", p, i, options_.requests,
                   lines[0].runs.back().seconds);
    }
    for (std::size_t i = 1; i < lines.size(); ++i) {
      results_.push_back(summarise(lines[i], lines[0].runs, p, scripted(p)));
      print(results_.back());
    }
  }

  const RequestOptions options_;
  const std::vector<Arm> arms_;
  const std::shared_ptr<const Model> target_, draft_;
  std::vector<Result> results_;
};

}  // namespace

int main(int argc, char** argv) {
  const RequestOptions options = parse_request_options(argc, argv);
  try {
    Bench(options).run_all();
  } catch (const std::exception& e) {
    refuse(e.what());
  }
  return 0;
}
