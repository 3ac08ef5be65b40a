#include "model/weights.h"

#include "model/loader.h"

namespace dream_r {
namespace {

// Published Qwen3-VL checkpoints keep a layer's experts transposed, [E, hidden, 2 ffn] and [E, ffn,
// hidden]; transformers 5 writes them as its layers have them. At most one of the two tensors is
// square, and they are spelled alike: the other one tells.
bool transposed_experts(const Loader& load, const std::string& gate_up, const std::string& down,
                        const TextConfig& c) {
  const std::int64_t e = c.moe.experts, h = c.hidden, f = c.moe.ffn;
  return 2 * f != h ? load.shape(gate_up) == Shape({e, h, 2 * f})
                    : load.has(down) && load.shape(down) == Shape({e, f, h});
}

void load_experts(Loader& load, const std::string& at, const TextConfig& c, MoeWeights& moe) {
  const std::int64_t h = c.hidden, f = c.moe.ffn;
  const std::string gate_up = at + "gate_up_proj", down = at + "down_proj";
  for (const std::string& fused : {gate_up, down})
    load.refuse_quantized(fused,
                          "INT4 experts in one tensor are not supported, one by one they are");
  if (!load.has(gate_up)) {
    for (int i = 0; i < c.moe.experts; ++i) {
      const std::string one = at + std::to_string(i) + ".";
      moe.gate_up.push_back(load.stacked(one, {{"gate_proj", f}, {"up_proj", f}}, h));
      moe.down.push_back(load.matrix(one + "down_proj", h, f));
    }
    return;
  }
  const bool transposed = transposed_experts(load, gate_up, down, c);
  moe.gate_up = load.fused(gate_up, c.moe.experts, 2 * f, h, transposed);
  moe.down = load.fused(down, c.moe.experts, h, f, transposed);
}

TextLayer load_layer(Loader& load, const std::string& at, const TextConfig& c, bool moe) {
  const std::int64_t h = c.hidden, d = c.head_dim, q = c.heads * d, kv = c.kv_heads * d;
  TextLayer layer;
  layer.input_norm = load.vector(at + "input_layernorm.weight", {h});
  layer.post_norm = load.vector(at + "post_attention_layernorm.weight", {h});
  if (c.qk_norm) {
    layer.q_norm = load.vector(at + "self_attn.q_norm.weight", {d});
    layer.k_norm = load.vector(at + "self_attn.k_norm.weight", {d});
  }
  layer.qkv = load.stacked(at + "self_attn.", {{"q_proj", q}, {"k_proj", kv}, {"v_proj", kv}}, h,
                           c.qkv_bias);
  layer.o = load.matrix(at + "self_attn.o_proj", h, q);
  if (moe) {
    layer.moe.router = load.exact(at + "mlp.gate", c.moe.experts, h);
    load_experts(load, at + "mlp.experts.", c, layer.moe);
    return layer;
  }
  layer.gate_up = load.stacked(at + "mlp.", {{"gate_proj", c.ffn}, {"up_proj", c.ffn}}, h);
  layer.down = load.matrix(at + "mlp.down_proj", h, c.ffn);
  return layer;
}

std::size_t bytes_of(const TextLayer& l) {
  std::size_t n = l.input_norm.nbytes() + l.post_norm.nbytes() + bytes_of(l.qkv) + bytes_of(l.o);
  if (l.q_norm.defined()) n += l.q_norm.nbytes() + l.k_norm.nbytes();
  if (!l.moe.router.defined()) return n + bytes_of(l.gate_up) + bytes_of(l.down);
  n += bytes_of(l.moe.router);
  for (const LinearWeight& w : l.moe.gate_up) n += bytes_of(w);
  for (const LinearWeight& w : l.moe.down) n += bytes_of(w);
  return n;
}

}  // namespace

TextWeights load_text(Loader& load, const TextConfig& c) {
  const std::string at = load.find_prefix(
      {"model.language_model.", "language_model.model.", "model."}, "embed_tokens.weight");
  TextWeights w;
  w.embedding = load.matrix(at + "embed_tokens", c.vocab, c.hidden);
  if (c.tied_head) {
    w.head = w.embedding;
  } else {
    const std::string head = load.find_prefix({"", "language_model."}, "lm_head.weight");
    w.head = load.matrix(head + "lm_head", c.vocab, c.hidden);
  }
  w.norm = load.vector(at + "norm.weight", {c.hidden});
  for (int i = 0; i < c.layers; ++i)
    w.layers.push_back(
        load_layer(load, at + "layers." + std::to_string(i) + ".", c, c.moe.in_layer(i)));
  return w;
}

std::size_t bytes_of(const LinearWeight& w) {
  return w.nbytes() + (w.bias.defined() ? w.bias.nbytes() : 0);
}

std::size_t bytes_of(const NormWeight& n) { return n.w.nbytes() + n.b.nbytes(); }

std::size_t bytes_of(const TextWeights& w) {
  std::size_t n = bytes_of(w.embedding) + w.norm.nbytes();
  if (w.head.packed.data<std::byte>() != w.embedding.packed.data<std::byte>())
    n += bytes_of(w.head);
  for (const TextLayer& l : w.layers) n += bytes_of(l);
  return n;
}

}  // namespace dream_r
