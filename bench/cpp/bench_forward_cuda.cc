// Forwards of true shapes with random weights on a GPU: decoding (by graphs), drafted steps judged
// in one pass, prefill; then draft and target alone and side by side on their own streams, a
// snapshot's copy, and how soon a cancelled request ends. Each model is made on the device,
// measured and dropped in turn; one that does not fit is left out.
#include <future>
#include <thread>

#include "bench_cuda.h"
#include "forward.h"
#include "request_arms.h"
#include "request_report.h"
#include "runtime/calibrate.h"
#include "runtime/engine.h"

using namespace dream_r;
using namespace dream_r::bench;

namespace {

const Case kCases[] = {
    {"decode", 1, 1, 64},      {"decode", 1, 1, 1024},          {"decode", 1, 1, 8192},
    {"decode", 1, 1, 32768},   {"decode 4 rows", 4, 1, 1024},   {"decode 16 rows", 16, 1, 1024},
    {"judge 32", 1, 32, 1024}, {"judge 4 x 150", 1, 600, 1024}, {"prefill 2048", 1, 2048, 0},
};

std::shared_ptr<const Model> make(const std::string& name, bool w4) {
  const ModelConfig config = qwen_model(name);
  return random_model(w4 ? quantised(config) : config, {DType::bf16, 1, cuda_device()});
}

// Bytes of weights that a decoded token reads.
double read_bytes(const Model& model, bool w4) {
  const auto format = w4 ? WeightFormat::w4 : WeightFormat::bf16;
  return static_cast<double>(model.weight_bytes()) - unread_bytes(model.config().text, format);
}

template <class F>
void where_it_fits(const std::string& what, F&& f) {
  try {
    f();
  } catch (const Error& e) {
    if (e.kind() != Error::Kind::memory) throw;
    std::printf("%s: left out, %s\n", what.c_str(), e.what());
  }
}

void forwards(GpuReport& report, const std::string& name, bool w4) {
  const std::string title = name + (w4 ? " w4" : " bf16");
  const auto wanted = [&](const Case& c) {
    return report.wants(title + " " + c.what + " at " + std::to_string(c.context));
  };
  if (std::none_of(std::begin(kCases), std::end(kCases), wanted)) return;
  const auto model = make(name, w4);
  const TextConfig& t = model->config().text;
  const double weights = read_bytes(*model, w4);
  report.calibrate(title);
  for (const Case& c : kCases) {
    if (!wanted(c)) continue;
    Setup setup(*model, DType::bf16, c);
    report.add(title + " " + c.what + " at " + std::to_string(c.context),
               weights + setup.kv_bytes(c), flops_of(t, c.rows * c.tokens, c.rows),
               [&] { setup.forward(report.stream()); });
  }
}

// The copy that a fork makes before its first write: one block of all layers.
void snapshot(GpuReport& report, const Model& target) {
  const KvStore kv(target.kv_shape(), 4, target.device());
  std::vector<ops::KvLayer> layers;
  for (int i = 0; i < kv.shape().layers; ++i) layers.push_back({kv.k(i), kv.v(i)});
  const ops::BlockCopy copy{0, 1};
  report.add("snapshot: copy of a block of all layers",
             2.0 * static_cast<double>(kv.shape().block_bytes()), 0,
             [&] { ops::copy_blocks(report.stream(), layers, std::span(&copy, 1)); });
}

std::shared_ptr<RequestSpec> endless(const Model& model) {
  RequestOptions o;
  o.tokens = 4096, o.answer = 16;
  return make_request(o, 1, model.config().text.vocab);
}

// Seconds from cancel() to the request's end, a burst of decoding under way.
double cancelled_in(Engine& engine, const Model& model) {
  const RequestId id = engine.submit(endless(model));
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  const auto begin = std::chrono::steady_clock::now();
  engine.cancel(id);
  while (const auto e = engine.next_event(id, 60))
    if (e->output.kind == Output::Kind::done) break;
  while (engine.pool_stats().in_flight > 0) std::this_thread::yield();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

// Decoding at 1,024 tokens on a stream of its own, by a graph that is there already.
class Decoder {
 public:
  Decoder(const Model& model, bool w4, int priority)
      : stream_(model.device(), priority),
        setup_(model, DType::bf16, kCase),
        bytes_(read_bytes(model, w4) + setup_.kv_bytes(kCase)) {
    for (int i = 0; i < 3; ++i) setup_.forward(stream_);
    stream_.wait();
  }
  // Bytes a second that it reads.
  double rate() {
    const auto begin = std::chrono::steady_clock::now();
    std::chrono::duration<double> took{};
    double forwards = 0;
    for (; took.count() < 0.5; took = std::chrono::steady_clock::now() - begin, ++forwards) {
      setup_.forward(stream_);
      stream_.wait();
    }
    return forwards * bytes_ / took.count();
  }

 private:
  static constexpr Case kCase{"decode", 1, 1, 1024};
  Stream stream_;
  Setup setup_;
  double bytes_;
};

void side_by_side(GpuReport& report, const std::string& title, const Model& target,
                  const Model& draft, bool draft_w4) {
  Decoder of_target(target, true, 2), of_draft(draft, draft_w4, 0);
  const double alone[] = {of_target.rate(), of_draft.rate()};
  auto beside = std::async(std::launch::async, [&] { return of_draft.rate(); });
  const double written = of_target.rate(), drafted = beside.get();
  report.note(title + ": target alone", alone[0] / 1e9, "GB/s");
  report.note(title + ": draft alone", alone[1] / 1e9, "GB/s");
  report.note(title + ": target beside the draft", written / 1e9, "GB/s");
  report.note(title + ": draft beside the target", drafted / 1e9, "GB/s");
  report.note(title + ": both together", (written + drafted) / 1e9, "GB/s");
}

void lanes(GpuReport& report, const std::string& target_name, const std::string& draft_name,
           bool draft_w4) {
  const std::string title =
      "lanes " + target_name + " w4, " + draft_name + (draft_w4 ? " w4" : " bf16");
  if (!report.wants(title)) return;
  const auto target = make(target_name, true), draft = make(draft_name, draft_w4);
  report.calibrate(title);
  snapshot(report, *target);
  EngineOptions o;
  o.target_threads = o.draft_threads = 1;
  const Speeds s = calibrate(*target, *draft, RequestOptions().suffix, o);
  for (const auto& [name, value] :
       {std::pair{"d", s.draft}, std::pair{"v", s.verify}, std::pair{"r_D", s.relative_draft},
        std::pair{"r_T", s.relative_target}})
    report.note(title + ": " + name, value, "of the target's own");
  side_by_side(report, title, *target, *draft, draft_w4);
  o.method = Method::ar;
  o.max_requests = 1, o.max_step_tokens = 4096, o.target_kv_tokens = 16384;
  Engine engine(target, nullptr, make_vocabulary(2), o);
  std::vector<double> seconds;
  for (int i = 0; i < 9; ++i) seconds.push_back(cancelled_in(engine, *target));
  const Spread ends = spread(seconds);
  report.note(title + ": a cancelled request ends, median", 1e3 * ends.median, "ms");
  report.note(title + ": a cancelled request ends, at most", 1e3 * ends.most, "ms");
}

}  // namespace

int main(int argc, char** argv) try {
  GpuReport report(parse(argc, argv, "Forwards on a GPU, models with random weights"));
  for (const bool w4 : {false, true}) forwards(report, "2B", w4);
  for (const char* name : {"32B", "8B", "4B", "30B-A3B"})
    where_it_fits(name, [&] { forwards(report, name, true); });
  for (const bool w4 : {false, true})
    where_it_fits("lanes", [&] { lanes(report, "32B", "2B", w4); });
  where_it_fits("235B-A22B", [&] { forwards(report, "235B-A22B", true); });
} catch (const Error& e) {
  std::fprintf(stderr, "%s\n", e.what());
  return 1;
}
