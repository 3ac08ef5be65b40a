// The forward of one decoded token a row, captured once and replayed for other tokens: every op of
// it, thin and wide products, a dense and an expert layer. In a replay the emulator starts each
// kernel before the one in front of it runs, so equal results also say that none of them reads or
// writes too early.
#include <bit>

#include "common.h"
#include "ops/cuda/attention.h"

using namespace dream_r;
using namespace dream_r::test;

namespace {

constexpr ops::Heads kHeads{4, 2, 64};
constexpr int kHidden = 64, kFfn = 96, kVocab = 80, kExperts = 5, kChosen = 2;
constexpr int kBlocks = 10;  // of a row
constexpr float kEps = 1e-6f;
const Device kGpu = cuda_device();

Tensor fresh(Shape shape, DType dtype = DType::f32) { return Tensor::empty(shape, dtype, kGpu); }

void put(Stream& s, const Tensor& to, const std::vector<std::int32_t>& v) {
  ops::copy(s, ints(v).view(to.shape()), to);
}

LinearWeight plain(Stream& s, Random& r, std::int64_t n, std::int64_t k, WeightFormat format) {
  Stream host;
  const Tensor t = r.tensor({n, k}, 0.1f);
  return copy_to(s, pack_linear(host, std::span(&t, 1), format), kGpu);
}

// Random q, one z and s.
LinearWeight w4(Stream& s, Random& r, std::int64_t n, std::int64_t k) {
  constexpr std::int64_t kGroup = 32, kLines = kGroup / 8 + 1;
  LinearWeight w{WeightFormat::w4, n, k, kGroup, {}, {}};
  w.packed = Tensor::empty({(n + 15) / 16, k / kGroup * kLines, 16}, DType::i32);
  auto* words = w.packed.data<std::uint32_t>();
  for (std::int64_t i = 0; i < w.packed.numel(); ++i)
    words[i] = i / 16 % kLines ? r.engine()() : (std::bit_cast<std::uint32_t>(0.02f) & ~15u) | 8u;
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
  Forward(Stream& s, int rows, DType type) : s_(s), rows_(rows), type_(type) {
    for (int i = 0; i < 2; ++i) {
      Layer l;
      l.qkv = plain(s, r_, 8 * kHeads.dim, kHidden, format_of(type_));
      l.o = w4(s, r_, kHidden, 4 * kHeads.dim);
      l.gate_up = w4(s, r_, 2 * kFfn, kHidden);
      l.down = plain(s, r_, kHidden, kFfn, format_of(type_));
      l.router = plain(s, r_, kExperts, kHidden, WeightFormat::f32);
      for (int e = 0; e < kExperts; ++e) {
        l.expert_gate_up.push_back(w4(s, r_, 2 * kFfn, kHidden));
        l.expert_down.push_back(plain(s, r_, kHidden, kFfn, format_of(type_)));
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
    cuda::copy(attention_rows_.data<std::byte>(), rows.data(), rows.size() * sizeof rows[0],
               s_.cuda());
    ops::copy(s_, cache_, k_);
    ops::copy(s_, cache_.view(v_.shape()), v_);
    s_.wait();
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
  Tensor logits() { return ops::copy_to(s_, logits_, Device()); }

 private:
  void attend() {
    const cuda::AttentionBatch b{
        kHeads,
        qkv_.data<float>(),
        qkv_.dim(1),
        attended_.data<float>(),
        k_.data<void>(),
        v_.data<void>(),
        type_,
        reinterpret_cast<const ops::AttentionRow*>(attention_rows_.data<std::byte>()),
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
  DType type_;  // of what is neither f32 nor w4
  std::int64_t pairs_ = rows_ * kChosen;
  Random r_;
  std::vector<float> inv_freq_ = std::vector<float>(kHeads.dim / 2, 0.3f);
  std::vector<Layer> layers_;
  LinearWeight embedding_ = plain(s_, r_, kVocab, kHidden, format_of(type_));
  Tensor norm_ = ops::copy_to(s_, r_.tensor({kHidden}), kGpu);
  Tensor head_norm_ = ops::copy_to(s_, r_.tensor({kHeads.dim}), kGpu);
  Tensor ids_ = fresh({rows_}, DType::i32), positions_ = fresh({rows_, 3}, DType::i32);
  Tensor slots_ = fresh({rows_}, DType::i32), wanted_ = fresh({1}, DType::i32);
  Tensor tables_ = fresh({rows_ * kBlocks}, DType::i32);
  Tensor attention_rows_ =
      fresh({rows_ * static_cast<std::int64_t>(sizeof(ops::AttentionRow))}, DType::u8);
  Tensor k_ = fresh({kBlocks * rows_, kHeads.kv, kHeads.dim, 16}, type_);
  Tensor v_ = fresh({kBlocks * rows_, kHeads.kv, 16, kHeads.dim}, type_);
  Tensor cache_ = random_cache(k_.shape());
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

  Tensor random_cache(Shape shape) {
    Tensor t = Tensor::empty(shape, type_);
    for (std::int64_t i = 0; i < t.numel(); ++i) {
      const float v = r_.normal();
      t.data<std::uint16_t>()[i] = type_ == DType::f16 ? f16(v).bits : bf16(v).bits;
    }
    return ops::copy_to(s_, t, kGpu);
  }
};

}  // namespace

TEST_CASE("a captured forward decodes other tokens as one that is issued") {
  if (!cuda_is_here()) return;
  for (const auto& [rows, type] :
       {std::pair{1, DType::bf16}, {3, DType::f16}, {40, DType::bf16}, {40, DType::f16}}) {
    CAPTURE(rows);
    CAPTURE(std::string(name_of(type)));
    Stream s(kGpu);
    Forward forward(s, rows, type);
    forward.want(rows - 1);
    const Step steps[] = {{5, 37}, {41, 16}, {12, 30}};
    std::vector<Tensor> want;
    for (const Step& step : steps) {
      forward.set(step);
      forward.issue();
      want.push_back(forward.logits());
    }
    CHECK(!same_bits(want[0], want[1]));
    const auto generation = s.scratch_generation();
    cuda::Capture capture(s.cuda());
    forward.issue();
    const cuda::Graph graph = capture.end();
    CHECK(s.scratch_generation() == generation);
    for (std::size_t i = 0; i < std::size(steps); ++i) {
      forward.set(steps[i]);
      graph.launch(s.cuda());
      CHECK(same_bits(forward.logits(), want[i]));
    }
  }
}
