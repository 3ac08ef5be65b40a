// The forward of one decoded token a row, captured once and replayed for other tokens: every op of
// it, thin and wide products, a dense and an expert layer. In a replay the emulator starts each
// kernel before the one in front of it runs, so equal results also say that none of them reads or
// writes too early.
#include <bit>

#include "attention_oracle.h"
#include "core/stream.h"
#include "device_array.h"
#include "ops/cuda/attention.h"
#include "ops/ops.h"

using namespace dream_r;
using namespace dream_r::test;

namespace {

constexpr ops::Heads kHeads{4, 2, 64};
constexpr int kHidden = 64, kFfn = 96, kVocab = 80, kExperts = 5, kChosen = 2;
constexpr int kBlocks = 10;  // of a row
constexpr float kEps = 1e-6f;
const Device kGpu = cuda_device();

Tensor floats(Stream& s, Shape shape, unsigned seed, float scale = 1.0f) {
  Tensor t = Tensor::empty(shape, DType::f32);
  const auto v = normals(static_cast<std::size_t>(t.numel()), seed);
  for (std::int64_t i = 0; i < t.numel(); ++i) t.f32()[i] = scale * v[static_cast<std::size_t>(i)];
  return ops::copy_to(s, t, kGpu);
}

Tensor fresh(Shape shape, DType dtype = DType::f32) { return Tensor::empty(shape, dtype, kGpu); }

void put(Stream& s, const Tensor& to, const std::vector<std::int32_t>& v) {
  Tensor t = Tensor::empty(to.shape(), DType::i32);
  std::copy(v.begin(), v.end(), t.data<std::int32_t>());
  ops::copy(s, t, to);
}

std::vector<float> down(Stream& s, const Tensor& t) {
  Tensor here = Tensor::empty(t.shape(), DType::f32);
  ops::copy(s, t, here);
  return {here.f32(), here.f32() + here.numel()};
}

LinearWeight plain(Stream& s, std::int64_t n, std::int64_t k, WeightFormat format, unsigned seed) {
  Stream host;
  Tensor t = Tensor::empty({n, k}, DType::f32);
  const auto v = normals(static_cast<std::size_t>(n * k), seed);
  for (std::size_t i = 0; i < v.size(); ++i) t.f32()[i] = 0.1f * v[i];
  return copy_to(s, pack_linear(host, std::span(&t, 1), format), kGpu);
}

// Random q, one z and s.
LinearWeight w4(Stream& s, std::int64_t n, std::int64_t k, unsigned seed) {
  constexpr std::int64_t kGroup = 32, kLines = kGroup / 8 + 1;
  LinearWeight w{WeightFormat::w4, n, k, kGroup, {}, {}};
  w.packed = Tensor::empty({(n + 15) / 16, k / kGroup * kLines, 16}, DType::i32);
  std::mt19937 engine(seed);
  auto* words = w.packed.data<std::uint32_t>();
  for (std::int64_t i = 0; i < w.packed.numel(); ++i)
    words[i] = i / 16 % kLines ? engine() : (std::bit_cast<std::uint32_t>(0.02f) & ~15u) | 8u;
  return copy_to(s, w, kGpu);
}

struct Layer {
  LinearWeight qkv, o, gate_up, down, router;
  std::vector<LinearWeight> expert_gate_up, expert_down;
};

// What changes from one token to the next.
struct Step {
  int id, position;
};

class Forward {
 public:
  Forward(Stream& s, int rows) : s_(s), rows_(rows) {
    for (unsigned i = 0; i < 2; ++i) {
      Layer l;
      l.qkv = plain(s, 8 * kHeads.dim, kHidden, WeightFormat::bf16, 10 + i);
      l.o = w4(s, kHidden, 4 * kHeads.dim, 20 + i);
      l.gate_up = w4(s, 2 * kFfn, kHidden, 30 + i);
      l.down = plain(s, kHidden, kFfn, WeightFormat::bf16, 40 + i);
      l.router = plain(s, kExperts, kHidden, WeightFormat::f32, 50 + i);
      for (unsigned e = 0; e < kExperts; ++e) {
        l.expert_gate_up.push_back(w4(s, 2 * kFfn, kHidden, 60 + e));
        l.expert_down.push_back(plain(s, kHidden, kFfn, WeightFormat::bf16, 70 + e));
      }
      layers_.push_back(l);
    }
    std::vector<std::int32_t> table;
    for (int i = 0; i < kBlocks * rows; ++i) table.push_back(kBlocks * rows - 1 - i);
    put(s, tables_, table);
  }

  // Token t of every row's next sequence, whose cache holds the same random tokens before it.
  void set(const Step& step) {
    std::vector<std::int32_t> ids, positions, slots;
    std::vector<ops::AttentionRow> rows;
    for (int t = 0; t < rows_; ++t) {
      const int position = step.position + 3 * t, block = kBlocks * rows_ - 1 - t * kBlocks;
      ids.push_back((step.id + 7 * t) % kVocab);
      positions.insert(positions.end(), 3, position);
      slots.push_back((block - position / 16) * 16 + position % 16);
      rows.push_back({t, 1, nullptr, 0, tables_.data<std::int32_t>() + t * kBlocks, position});
    }
    put(s_, ids_, ids), put(s_, positions_, positions), put(s_, slots_, slots);
    cuda::copy(attention_rows_.data(), rows.data(), rows.size() * sizeof(rows[0]), s_.cuda());
    for (const Tensor& t : {k_, v_})
      cuda::copy(t.data<std::byte>(), cache_.data(), t.nbytes(), s_.cuda());
  }

  void issue() {
    ops::mrope_table(s_, positions_, inv_freq_, ops::MropeLayout::interleaved, {16, 8, 8}, cos_,
                     sin_);
    ops::embedding(s_, ids_, embedding_, x_);
    ops::rms_norm(s_, x_, norm_, kEps, normed_);
    for (std::size_t i = 0; i < layers_.size(); ++i) {
      const Layer& l = layers_[i];
      ops::linear(s_, normed_, l.qkv, qkv_);
      ops::qk_norm_rope_write(s_, qkv_, kHeads, head_norm_, head_norm_, kEps, cos_, sin_, slots_,
                              {k_, v_});
      attend();
      ops::linear(s_, attended_, l.o, delta_);
      ops::add_rms_norm(s_, x_, delta_, norm_, kEps, normed_);
      i % 2 ? mix_experts(l) : mix(l);
      ops::add_rms_norm(s_, x_, delta_, norm_, kEps, normed_);
    }
    ops::gather_rows(s_, normed_, wanted_, last_);
    ops::linear(s_, last_, embedding_, logits_);
  }

  void want(int row) { put(s_, wanted_, {row}); }
  std::vector<float> logits() { return down(s_, logits_); }

 private:
  void attend() {
    const cuda::AttentionBatch b{kHeads,
                                 qkv_.data<float>(),
                                 qkv_.dim(1),
                                 attended_.data<float>(),
                                 k_.data<void>(),
                                 v_.data<void>(),
                                 true,
                                 attention_rows_.data(),
                                 rows_,
                                 rows_,
                                 1,
                                 kBlocks * 16};
    const auto plan = cuda::plan_attention(b, 16);
    CHECK((plan.splits > 1) == (rows_ < 8));
    cuda::attention(b, plan, partials_.data<float>(), s_.cuda());
  }
  void mix(const Layer& l) {
    ops::linear(s_, normed_, l.gate_up, gate_up_);
    ops::silu_mul(s_, gate_up_, act_);
    ops::linear(s_, act_, l.down, delta_);
  }
  void mix_experts(const Layer& l) {
    ops::linear(s_, normed_, l.router, router_);
    ops::moe_route(s_, router_, true, expert_, weight_);
    ops::moe_group(s_, expert_, token_, place_, begin_);
    ops::gather_rows(s_, normed_, token_, grouped_);
    ops::grouped_linear(s_, grouped_, l.expert_gate_up, begin_, pair_gate_up_);
    ops::silu_mul(s_, pair_gate_up_, pair_act_);
    ops::grouped_linear(s_, pair_act_, l.expert_down, begin_, grouped_);
    ops::moe_combine(s_, grouped_, place_, weight_, delta_);
  }

  Stream& s_;
  int rows_;
  std::int64_t pairs_ = rows_ * kChosen;
  std::vector<float> inv_freq_ = normals(kHeads.dim / 2, 1);
  std::vector<Layer> layers_;
  LinearWeight embedding_ = plain(s_, kVocab, kHidden, WeightFormat::bf16, 2);
  Tensor norm_ = floats(s_, {kHidden}, 3), head_norm_ = floats(s_, {kHeads.dim}, 4);
  Tensor ids_ = fresh({rows_}, DType::i32), positions_ = fresh({rows_, 3}, DType::i32);
  Tensor slots_ = fresh({rows_}, DType::i32), wanted_ = fresh({1}, DType::i32);
  Tensor tables_ = fresh({rows_ * kBlocks}, DType::i32);
  DeviceArray<ops::AttentionRow> attention_rows_{static_cast<std::size_t>(rows_)};
  Tensor k_ = fresh({kBlocks * rows_, kHeads.kv, kHeads.dim, 16}, DType::bf16);
  Tensor v_ = fresh({kBlocks * rows_, kHeads.kv, 16, kHeads.dim}, DType::bf16);
  DeviceArray<std::uint16_t> cache_{s_.cuda(), random_cache(k_.numel())};
  Tensor cos_ = fresh({rows_, kHeads.dim / 2}), sin_ = fresh({rows_, kHeads.dim / 2});
  Tensor x_ = fresh({rows_, kHidden}), normed_ = fresh({rows_, kHidden});
  Tensor delta_ = fresh({rows_, kHidden}), qkv_ = fresh({rows_, 8 * kHeads.dim});
  Tensor attended_ = fresh({rows_, 4 * kHeads.dim}), partials_ = fresh({1 << 16});
  Tensor gate_up_ = fresh({rows_, 2 * kFfn}), act_ = fresh({rows_, kFfn});
  Tensor router_ = fresh({rows_, kExperts}), weight_ = fresh({rows_, kChosen});
  Tensor expert_ = fresh({rows_, kChosen}, DType::i32), token_ = fresh({pairs_}, DType::i32);
  Tensor place_ = fresh({pairs_}, DType::i32), begin_ = fresh({kExperts + 1}, DType::i32);
  Tensor grouped_ = fresh({pairs_, kHidden}), pair_gate_up_ = fresh({pairs_, 2 * kFfn});
  Tensor pair_act_ = fresh({pairs_, kFfn}), last_ = fresh({1, kHidden});
  Tensor logits_ = fresh({1, kVocab});

  static std::vector<std::uint16_t> random_cache(std::int64_t n) {
    std::vector<std::uint16_t> v;
    for (const float x : normals(static_cast<std::size_t>(n), 9)) v.push_back(bf16(x).bits);
    return v;
  }
};

}  // namespace

TEST_CASE("a captured forward decodes other tokens as one that is issued") {
  for (const int rows : {1, 3, 40}) {
    CAPTURE(rows);
    Stream s(kGpu);
    Forward forward(s, rows);
    forward.want(rows - 1);
    const Step steps[] = {{5, 37}, {41, 16}, {12, 30}};
    std::vector<std::vector<float>> want;
    for (const Step& step : steps) {
      forward.set(step);
      forward.issue();
      want.push_back(forward.logits());
    }
    CHECK(want[0] != want[1]);
    const auto generation = s.scratch_generation();
    cuda::Capture capture(s.cuda());
    forward.issue();
    const cuda::Graph graph = capture.end();
    CHECK(s.scratch_generation() == generation);
    for (std::size_t i = 0; i < std::size(steps); ++i) {
      forward.set(steps[i]);
      graph.launch(s.cuda());
      CHECK(forward.logits() == want[i]);
    }
  }
}
