// Engine handle: submit, events, cancel, stats. Everything that can block releases the GIL.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstring>
#include <limits>

#include "model/positions.h"
#include "python/bind.h"
#include "python/borrowed.h"
#include "runtime/engine.h"

namespace py = pybind11;

namespace dream_r {
namespace {

using Floats = py::array_t<float, py::array::c_style | py::array::forcecast>;

// A request as Python fills it in; submit() turns it into a RequestSpec.
struct PyRequest {
  std::vector<std::int32_t> target_ids, draft_ids;
  std::optional<Floats> target_patches, draft_patches;
  std::vector<Grid> target_grid, draft_grid;
  std::vector<py::bytes> digests;
  ops::SamplingParams sampling;
  std::uint64_t seed = 0, index = 0;
  std::int32_t thinking_budget = 4096, max_tokens = 1024;
  bool ignore_eos = false;
};

template <class E>
E pick(const std::string& name, std::initializer_list<std::pair<const char*, E>> choices,
       const char* what) {
  std::string known;
  for (const auto& [text, value] : choices) {
    if (name == text) return value;
    known += (known.empty() ? "" : ", ") + std::string(text);
  }
  DR_FAIL(input) << what << " \"" << name << "\" is not one of " << known;
}

// Options as Python spells them.
struct PyOptions {
  EngineOptions o;
  std::string method = "fpsr", race = "first", mode = "auto", verify = "fused", judge = "cpn";
  EngineOptions parse() const {
    EngineOptions r = o;
    r.method = pick<Method>(
        method, {{"ar", Method::ar}, {"specreason", Method::specreason}, {"fpsr", Method::fpsr}},
        "method");
    r.race = pick<Race>(race, {{"first", Race::first}, {"verdict", Race::verdict}}, "race");
    r.mode = pick<ModeChoice>(mode,
                              {{"auto", ModeChoice::automatic},
                               {"hedged", ModeChoice::hedged},
                               {"sequential", ModeChoice::sequential},
                               {"off", ModeChoice::off}},
                              "mode");
    r.verify = pick<VerifyLane>(
        verify, {{"fused", VerifyLane::fused}, {"separate", VerifyLane::separate}}, "verify");
    r.judge = pick<Judge>(judge,
                          {{"cpn", Judge::cpn},
                           {"digit-greedy", Judge::digit_greedy},
                           {"digit-average", Judge::digit_average}},
                          "judge");
    return r;
  }
};

ModelPrompt make_prompt(const Model& model, const std::vector<std::int32_t>& ids,
                        const std::optional<Floats>& patches, const std::vector<Grid>& grids,
                        const std::vector<py::bytes>& digests, Borrowed& borrowed) {
  ModelPrompt p;
  p.ids = ids;
  for (std::int32_t id : ids)
    DR_CHECK(0 <= id && id < model.config().text.vocab)
        << "prompt token " << id << " is outside the vocabulary of " << model.config().text.vocab;
  PromptPositions positions = prompt_positions(ids, grids, model.config());
  p.positions = std::move(positions.positions);
  p.rope_delta = positions.delta;
  if (grids.empty()) return p;
  DR_CHECK(patches && patches->ndim() == 2) << "a prompt with images needs patches [N, D]";
  DR_CHECK(digests.size() == grids.size())
      << digests.size() << " digests for " << grids.size() << " images";
  p.feature_rows = std::move(positions.feature_rows);
  p.grids.assign(grids.begin(), grids.end());
  auto* data = const_cast<float*>(patches->data());
  auto buffer =
      Buffer::borrow(data, static_cast<std::size_t>(patches->nbytes()), borrowed.lend(*patches));
  p.patches =
      Tensor(buffer, buffer->data(), DType::f32, Shape{patches->shape(0), patches->shape(1)});
  std::int32_t at = 0;
  for (std::size_t i = 0; i < grids.size(); ++i) {
    while (p.feature_rows[at] < 0) ++at;
    const auto tokens = visual_tokens(grids[i], model.config().vision);
    PromptKey::Image image{at, at + static_cast<std::int32_t>(tokens), {}};
    const std::string digest = digests[i];
    DR_CHECK(digest.size() == image.digest.size()) << "a digest is 32 bytes";
    std::memcpy(image.digest.data(), digest.data(), digest.size());
    p.images.push_back(image);
    at = image.end;
  }
  return p;
}

const char* author_name(Author a) {
  return a == Author::draft ? "draft" : a == Author::target ? "target" : "forced";
}

const char* reason_name(FinishReason r) {
  switch (r) {
    case FinishReason::stop:
      return "stop";
    case FinishReason::length:
      return "length";
    case FinishReason::cancelled:
      return "cancelled";
    case FinishReason::error:
      return "error";
  }
  return "?";
}

constexpr const char* kLaneNames[kLanes] = {"draft", "target", "verify"};

py::dict metrics_dict(const EngineEvent& e) {
  const RequestMetrics& m = e.output.metrics;
  py::dict d, lanes, modes;
  d["accepted"] = m.accepted, d["rejected"] = m.rejected, d["skipped"] = m.skipped;
  d["drafted"] = m.drafted, d["verified"] = m.verified;
  d["ahead_drafted"] = m.ahead_drafted, d["ahead_verified"] = m.ahead_verified;
  d["target_steps"] = m.target_steps;
  d["draft_tokens"] = m.draft_tokens, d["target_tokens"] = m.target_tokens;
  d["wasted_draft_tokens"] = m.wasted_draft_tokens;
  d["wasted_target_tokens"] = m.wasted_target_tokens;
  d["proposed_tokens"] = m.proposed_tokens, d["agreed_tokens"] = m.agreed_tokens;
  d["reasoning_tokens"] = m.reasoning_tokens, d["answer_tokens"] = m.answer_tokens;
  d["nan_verdicts"] = m.nan_verdicts, d["low_mass_verdicts"] = m.low_mass_verdicts;
  d["truncated_steps"] = m.truncated_steps, d["prefix_tokens"] = m.prefix_tokens;
  d["translated"] = m.translated, d["translate_seconds"] = e.translate_seconds;
  d["degraded"] = m.degraded, d["budget_hit"] = m.budget_hit;
  modes["hedged"] = m.hedged_steps, modes["sequential"] = m.sequential_steps;
  modes["off"] = m.off_steps;
  d["mode_steps"] = modes;
  for (int i = 0; i < kLanes; ++i) lanes[kLaneNames[i]] = e.lane_seconds[i];
  d["lane_seconds"] = lanes;
  d["overlap_seconds"] = e.overlap_seconds;
  d["prefill_seconds"] = e.prefill_seconds;
  d["first_step_seconds"] = e.first_step_seconds;
  d["seconds"] = e.at;
  d["answer_seconds"] = e.at - e.answer_begin;
  d["target_forwards"] = e.target_forwards;
  return d;
}

std::string kind_name(const EngineEvent& e) {
  switch (e.output.kind) {
    case Output::Kind::step:
      return "step";
    case Output::Kind::answer:
      return "answer";
    case Output::Kind::done:
      return e.output.reason == FinishReason::error ? "error" : "done";
  }
  return "?";
}

py::list trace_list(Engine& engine) {
  py::list out;
  for (const Span& s : engine.spans()) {
    const char* name = s.kind == WorkKind::prefill  ? "prefill"
                       : s.kind == WorkKind::verify ? "verify"
                       : s.answer                   ? "answer"
                       : s.cancelled                ? "cancelled"
                                                    : "step";
    out.append(py::make_tuple(kLaneNames[static_cast<int>(s.lane)], name, s.request, s.step,
                              s.begin, s.end));
  }
  return out;
}

py::dict stats_dict(Engine& engine) {
  Engine::PoolStats pools{};
  LaneTimes times;
  {
    py::gil_scoped_release release;
    pools = engine.pool_stats();
    times = engine.lane_times();
  }
  py::dict d, busy;
  d["target_blocks"] = pools.target_total, d["target_blocks_used"] = pools.target_used;
  d["draft_blocks"] = pools.draft_total, d["draft_blocks_used"] = pools.draft_used;
  d["requests"] = pools.live, d["works"] = pools.in_flight;
  for (int i = 0; i < kLanes; ++i) busy[kLaneNames[i]] = times.busy[i];
  d["lane_seconds"] = busy;
  d["overlap_seconds"] = times.overlap;
  const Speeds& s = engine.speeds();
  d["d"] = s.draft, d["v"] = s.verify, d["r_D"] = s.relative_draft, d["r_T"] = s.relative_target;
  d["verify_more"] = s.verify_more;
  d["target_threads"] = engine.options().target_threads;
  d["draft_threads"] = engine.options().draft_threads;
  return d;
}

// Python's translators of a step, (ids) -> ids, for the thread of the text lane: the interpreter is
// held for the call alone. No other thread of the engine ever waits for it, and whoever joins that
// thread (close) must have released it.
Translator make_translator(py::object to_target, py::object to_draft) {
  struct Held {
    py::object to_target, to_draft;
  };
  // The last copy of the function may be dropped by any thread.
  std::shared_ptr<Held> held(new Held{std::move(to_target), std::move(to_draft)}, [](Held* h) {
    py::gil_scoped_acquire gil;
    delete h;
  });
  return [held](Role from, std::span<const std::int32_t> step) {
    py::gil_scoped_acquire gil;
    try {
      const auto& translate = from == Role::draft ? held->to_target : held->to_draft;
      return translate(std::vector<std::int32_t>(step.begin(), step.end()))
          .cast<std::vector<std::int32_t>>();
    } catch (const std::exception& e) {  // Python's must not outlive the interpreter's lock
      DR_FAIL(state) << "a step could not be translated: " << e.what();
    }
  };
}

std::optional<Translation> make_translation(const Vocabulary* draft, py::object to_target,
                                            py::object to_draft) {
  if (!draft) return std::nullopt;
  DR_CHECK(!to_target.is_none() && !to_draft.is_none())
      << "a draft with a vocabulary of its own needs to_target and to_draft";
  return Translation{*draft, make_translator(std::move(to_target), std::move(to_draft))};
}

// The engine and the two models it was made of (positions are the models' business).
struct PyEngine {
  std::shared_ptr<const Model> target, draft;
  Borrowed borrowed;  // arrays of requests
  std::unique_ptr<Engine> engine;

  PyEngine(std::shared_ptr<Model> t, std::shared_ptr<Model> d, const Vocabulary& vocabulary,
           const PyOptions& options, const Vocabulary* draft_vocabulary, py::object to_target,
           py::object to_draft)
      : target(std::move(t)), draft(std::move(d)) {
    const EngineOptions parsed = options.parse();
    auto translation =
        make_translation(draft_vocabulary, std::move(to_target), std::move(to_draft));
    py::gil_scoped_release release;
    engine = std::make_unique<Engine>(target, draft, vocabulary, parsed, std::move(translation));
  }
  ~PyEngine() { close(); }
  void close() {
    if (!engine) return;
    {
      py::gil_scoped_release release;
      engine->close();
    }
    borrowed.collect();
  }

  RequestId submit(const PyRequest& r) {
    auto spec = std::make_shared<RequestSpec>();
    borrowed.collect();
    spec->target =
        make_prompt(*target, r.target_ids, r.target_patches, r.target_grid, r.digests, borrowed);
    if (draft && !r.draft_ids.empty())
      spec->draft =
          make_prompt(*draft, r.draft_ids, r.draft_patches, r.draft_grid, r.digests, borrowed);
    spec->sampling = r.sampling;
    spec->seed = r.seed, spec->index = r.index;
    spec->thinking_budget = r.thinking_budget, spec->max_tokens = r.max_tokens;
    spec->ignore_eos = r.ignore_eos;
    py::gil_scoped_release release;
    return engine->submit(std::move(spec));
  }

  std::optional<EngineEvent> next_event(RequestId id, double timeout) {
    const auto waited = [&] {
      py::gil_scoped_release release;
      return engine->next_event(id, timeout);
    };
    auto event = waited();
    borrowed.collect();
    return event;
  }
  bool wait(RequestId id, double timeout) {
    py::gil_scoped_release release;
    return engine->wait(id, timeout);
  }
  void cancel(RequestId id) {
    py::gil_scoped_release release;
    engine->cancel(id);
  }
};

void bind_options(py::module_& m) {
  py::class_<PyOptions> c(m, "EngineOptions");
  c.def(py::init<>())
      .def_readwrite("method", &PyOptions::method)
      .def_readwrite("race", &PyOptions::race)
      .def_readwrite("mode", &PyOptions::mode)
      .def_readwrite("verify", &PyOptions::verify)
      .def_readwrite("judge", &PyOptions::judge);
#define FIELD(name)                                 \
  c.def_property(                                   \
      #name, [](PyOptions& p) { return p.o.name; }, \
      [](PyOptions& p, decltype(EngineOptions::name) v) { p.o.name = v; })
  FIELD(alpha);
  FIELD(window);
  FIELD(digit_threshold);
  FIELD(min_mass);
  FIELD(max_step_tokens);
  FIELD(answer_burst);
  FIELD(proposals);
  FIELD(prefill_chunk);
  FIELD(max_requests);
  FIELD(target_kv_tokens);
  FIELD(draft_kv_tokens);
  FIELD(target_threads);
  FIELD(draft_threads);
  FIELD(prefix_cache);
  FIELD(cuda_graphs);
  FIELD(inline_mode);
  FIELD(trace);
#undef FIELD
}

void bind_request(py::module_& m) {
  py::class_<PyRequest> c(m, "Request");
  c.def(py::init<>())
      .def_readwrite("target_ids", &PyRequest::target_ids)
      .def_readwrite("draft_ids", &PyRequest::draft_ids)
      .def_readwrite("target_patches", &PyRequest::target_patches)
      .def_readwrite("draft_patches", &PyRequest::draft_patches)
      .def_readwrite("target_grid", &PyRequest::target_grid)
      .def_readwrite("draft_grid", &PyRequest::draft_grid)
      .def_readwrite("digests", &PyRequest::digests)
      .def_readwrite("seed", &PyRequest::seed)
      .def_readwrite("index", &PyRequest::index)
      .def_readwrite("thinking_budget", &PyRequest::thinking_budget)
      .def_readwrite("max_tokens", &PyRequest::max_tokens)
      .def_readwrite("ignore_eos", &PyRequest::ignore_eos);
#define FIELD(name)                                        \
  c.def_property(                                          \
      #name, [](PyRequest& r) { return r.sampling.name; }, \
      [](PyRequest& r, decltype(ops::SamplingParams::name) v) { r.sampling.name = v; })
  FIELD(temperature);
  FIELD(top_k);
  FIELD(top_p);
  FIELD(min_p);
  FIELD(repetition_penalty);
  FIELD(presence_penalty);
#undef FIELD
}

void bind_events(py::module_& m) {
  py::class_<EngineEvent>(m, "Event")
      .def_property_readonly("kind", &kind_name)
      .def_property_readonly("at", [](const EngineEvent& e) { return e.at; })
      .def_property_readonly("index", [](const EngineEvent& e) { return e.output.step.index; })
      .def_property_readonly("author",
                             [](const EngineEvent& e) { return author_name(e.output.step.author); })
      .def_property_readonly("rho", [](const EngineEvent& e) { return e.output.step.rho; })
      .def_property_readonly("tokens",
                             [](const EngineEvent& e) {
                               return e.output.kind == Output::Kind::step ? e.output.step.tokens
                                                                          : e.output.tokens;
                             })
      .def_property_readonly("begin", [](const EngineEvent& e) { return e.output.step.begin; })
      .def_property_readonly("end", [](const EngineEvent& e) { return e.output.step.finish; })
      .def_property_readonly(
          "truncated", [](const EngineEvent& e) { return e.output.step.end == StepEnd::limit; })
      .def_property_readonly("finish_reason",
                             [](const EngineEvent& e) { return reason_name(e.output.reason); })
      .def_property_readonly("message", [](const EngineEvent& e) { return e.output.error; })
      .def_property_readonly("metrics", &metrics_dict);
}

Vocabulary make_vocabulary(const py::buffer& classes, std::vector<std::int32_t> eos,
                           std::int32_t think_end, std::vector<std::int32_t> forced_end,
                           std::vector<std::int32_t> suppressed, std::vector<std::int32_t> suffix,
                           std::vector<std::int32_t> positive, std::vector<std::int32_t> negative,
                           std::vector<std::int32_t> digit_suffix,
                           std::vector<std::vector<std::int32_t>> digits,
                           ThinkSpelling think_spelling) {
  const py::buffer_info info = classes.request();
  DR_CHECK(info.itemsize == 1 && info.ndim == 1) << "token classes are one byte a token";
  const auto* bytes = static_cast<const std::uint8_t*>(info.ptr);
  Vocabulary v;
  v.classes.assign(bytes, bytes + info.size);
  v.eos = std::move(eos), v.think_end = think_end, v.forced_end = std::move(forced_end);
  v.suppressed = std::move(suppressed), v.suffix = std::move(suffix);
  v.positive = std::move(positive), v.negative = std::move(negative);
  v.digit_suffix = std::move(digit_suffix), v.digits = std::move(digits);
  v.think_spelling = std::move(think_spelling);
  return v;
}

}  // namespace

void bind_engine(py::module_& m) {
  using namespace py::literals;
  m.attr("load_model") = m.attr("model").attr("load");
  m.attr("check_model") = m.attr("model").attr("check");
  m.attr("read_index") = m.attr("model").attr("read_index");
  m.attr("Model") = m.attr("model").attr("Model");
  py::class_<Vocabulary>(m, "Vocabulary")
      .def(py::init(&make_vocabulary), "classes"_a, "eos"_a, "think_end"_a, "forced_end"_a,
           "suppressed"_a, "suffix"_a, "positive"_a, "negative"_a,
           "digit_suffix"_a = std::vector<std::int32_t>{},
           "digits"_a = std::vector<std::vector<std::int32_t>>{},
           "think_spelling"_a = ThinkSpelling{});
  bind_options(m);
  bind_request(m);
  bind_events(m);
  py::class_<PyEngine>(m, "Engine")
      .def(py::init<std::shared_ptr<Model>, std::shared_ptr<Model>, const Vocabulary&,
                    const PyOptions&, const Vocabulary*, py::object, py::object>(),
           "target"_a, "draft"_a.none(true), "vocabulary"_a, "options"_a,
           "draft_vocabulary"_a = nullptr, "to_target"_a = py::none(), "to_draft"_a = py::none())
      .def("submit", &PyEngine::submit, "request"_a)
      .def("next_event", &PyEngine::next_event, "id"_a, "timeout_s"_a)
      .def("wait", &PyEngine::wait, "id"_a, "timeout_s"_a)
      .def("cancel", &PyEngine::cancel, "id"_a)
      .def(
          "drop_prefixes",
          [](PyEngine& e) {
            py::gil_scoped_release release;  // inline mode: it runs what waits
            e.engine->drop_prefixes();
          },
          "Forgets cached prompts, so that a measurement starts cold")
      .def("trace", [](PyEngine& e) { return trace_list(*e.engine); })
      .def("stats", [](PyEngine& e) { return stats_dict(*e.engine); })
      .def("close", &PyEngine::close);
}

}  // namespace dream_r
