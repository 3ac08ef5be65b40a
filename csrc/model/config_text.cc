#include <limits>

#include "core/check.h"
#include "model/config_parts.h"

namespace dream_r {
namespace {

using Names = Section::Names;

void read_mrope_sections(const Section& rope, TextConfig& c) {
  // transformers' own where the config is silent; they fit heads of 128 alone.
  if (c.head_dim == 128 && !rope.find("mrope_section")) {
    const bool interleaved = c.mrope_layout == ops::MropeLayout::interleaved;
    c.mrope_sections = interleaved ? std::array{24, 20, 20} : std::array{16, 24, 24};
    return;
  }
  const std::vector<int> sections = rope.counts("mrope_section");
  DR_CHECK(sections.size() == 3 && sections[0] + sections[1] + sections[2] == c.head_dim / 2)
      << rope.where() << ": \"mrope_section\" must be three numbers that sum to half of head_dim "
      << c.head_dim;
  std::copy(sections.begin(), sections.end(), c.mrope_sections.begin());
}

// transformers 5 writes "rope_parameters"; 4 wrote "rope_scaling" beside a "rope_theta".
void read_rope(const Section& text, TextConfig& c, TextFamily family) {
  const bool plain = family == TextFamily::qwen3;
  const bool interleaved = family != TextFamily::qwen2_5_vl;
  c.mrope_layout = interleaved ? ops::MropeLayout::interleaved : ops::MropeLayout::chunked;
  c.mrope_sections = {c.head_dim / 2, 0, 0};
  if (text.find("rope_theta")) c.rope_theta = text.positive("rope_theta");
  const char* key = text.find("rope_parameters") ? "rope_parameters" : "rope_scaling";
  const Json none = Json::parse("{}", text.where());
  const Section rope(text.find(key) ? *text.find(key) : none, text.where() + ": " + key);
  rope.only("rope_type", "default", {"default", "mrope"});
  rope.only("type", "default", {"default", "mrope"});
  DR_CHECK(plain || rope.flag("mrope_interleaved", interleaved) == interleaved)
      << rope.where() << ": \"mrope_interleaved\" must be " << (interleaved ? "true" : "false");
  DR_CHECK(plain || rope.find("rope_theta") || text.find("rope_theta"))
      << text.where() << ": \"rope_theta\" is missing";
  if (rope.find("rope_theta")) c.rope_theta = rope.positive("rope_theta");
  if (plain) return rope.no_other({"rope_type", "type", "rope_theta"});
  rope.no_other({"rope_type", "type", "rope_theta", "mrope_interleaved", "mrope_section"});
  read_mrope_sections(rope, c);
}

// The last two matter to training alone.
const Names kMoeKeys = {"num_experts",           "num_local_experts",    "num_experts_per_tok",
                        "moe_intermediate_size", "norm_topk_prob",       "decoder_sparse_step",
                        "mlp_only_layers",       "router_aux_loss_coef", "output_router_logits"};

MoeConfig read_moe(const Section& s, int layers) {
  MoeConfig c;
  c.experts = s.count(s.find("num_experts") ? "num_experts" : "num_local_experts", 0);
  if (c.experts == 0) return c;
  c.per_token = s.count("num_experts_per_tok");
  c.ffn = s.count("moe_intermediate_size");
  c.renormalise = s.flag("norm_topk_prob", true);
  c.sparse_step = s.count_or("decoder_sparse_step", 1);
  if (s.find("mlp_only_layers")) c.dense_layers = s.counts("mlp_only_layers");
  DR_CHECK(c.per_token <= c.experts) << s.where() << ": \"num_experts_per_tok\" " << c.per_token
                                     << " of " << c.experts << " experts";
  for (const int layer : c.dense_layers)
    DR_CHECK(layer < layers) << s.where() << ": \"mlp_only_layers\" names layer " << layer << " of "
                             << layers;
  return c;
}

// What holds where config.json is silent, as transformers has it; 0: it must not be. A config that
// holds a Qwen3Config leaves out what is that one's default.
TextConfig silent(TextFamily family) {
  TextConfig c;
  if (family == TextFamily::qwen2_5_vl) c.rms_eps = 1e-5f;
  if (family != TextFamily::qwen3) return c;
  c.hidden = 4096, c.layers = c.heads = c.kv_heads = 32, c.head_dim = 128;
  c.ffn = 22016, c.vocab = 151936, c.rope_theta = 10000.0;
  return c;
}

void read_shape(const Section& s, TextConfig& c, bool hidden_by_heads) {
  const auto get = [&s](const char* key, int otherwise) {
    return otherwise > 0 ? s.count_or(key, otherwise) : s.count(key);
  };
  c.hidden = get("hidden_size", c.hidden);
  c.layers = get("num_hidden_layers", c.layers);
  c.heads = get("num_attention_heads", c.heads);
  c.kv_heads = s.count_or("num_key_value_heads", c.kv_heads > 0 ? c.kv_heads : c.heads);
  c.ffn = get("intermediate_size", c.ffn);
  c.vocab = get("vocab_size", c.vocab);
  DR_CHECK(!hidden_by_heads || c.hidden % c.heads == 0)
      << s.where() << ": \"hidden_size\" " << c.hidden << " over " << c.heads
      << " heads is no whole number";
  c.head_dim = s.count_or("head_dim", hidden_by_heads ? c.hidden / c.heads : 128);
  DR_CHECK(!hidden_by_heads || c.head_dim * c.heads == c.hidden)
      << s.where() << ": \"head_dim\" " << c.head_dim
      << " is not hidden_size / num_attention_heads";
  DR_CHECK(c.heads % c.kv_heads == 0)
      << s.where() << ": \"num_key_value_heads\" " << c.kv_heads << " does not divide " << c.heads;
  DR_CHECK(c.head_dim % 16 == 0) << s.where() << ": \"head_dim\" " << c.head_dim
                                 << " is no multiple of 16";
}

// Layers that attend to a window of the text are not supported.
void check_layer_types(const Section& s) {
  const Json* types = s.find("layer_types");
  if (!types) return;
  DR_CHECK(types->is(Json::Type::array)) << s.where() << ": \"layer_types\" must be a list";
  for (const Json& t : types->array())
    DR_CHECK(t.string() == "full_attention")
        << s.where() << ": \"layer_types\" holds \"" << t.string()
        << "\", only \"full_attention\" is supported";
}

Names other_keys(TextFamily family) {
  // The width of a window that no layer uses.
  static const Names kQwen2 = {"sliding_window", "layer_types"};
  // Of a config without a text_config: keys of the whole model, read elsewhere.
  static const Names kFlat = {"sliding_window",        "layer_types",         "vision_config",
                              "image_token_id",        "video_token_id",      "vision_token_id",
                              "vision_start_token_id", "vision_end_token_id", "attention_bias"};
  switch (family) {
    case TextFamily::qwen3_vl:
      return {};
    case TextFamily::qwen3_vl_moe:
      return kMoeKeys;
    case TextFamily::qwen2_5_vl:
      return kFlat;
    case TextFamily::qwen3:
      return kQwen2;
  }
  return {};
}

}  // namespace

TextConfig read_text(const Section& s, const Section& top, TextFamily family) {
  TextConfig c = silent(family);
  const bool qwen2 = family == TextFamily::qwen2_5_vl;
  read_shape(s, c, qwen2);
  c.qk_norm = !qwen2, c.qkv_bias = qwen2;
  c.max_positions = s.count_or("max_position_embeddings", std::numeric_limits<int>::max() / 2);
  if (s.find("rms_norm_eps")) c.rms_eps = static_cast<float>(s.positive("rms_norm_eps"));
  c.tied_head = top.flag("tie_word_embeddings", s.flag("tie_word_embeddings", false));
  s.only("hidden_act", "silu", {"silu"});
  DR_CHECK(qwen2 || !s.flag("attention_bias", false))
      << s.where() << ": \"attention_bias\" true is not supported";
  check_layer_types(s);
  read_rope(s, c, family);
  if (family == TextFamily::qwen3_vl_moe) c.moe = read_moe(s, c.layers);
  s.no_other({"hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
              "head_dim", "intermediate_size", "vocab_size", "max_position_embeddings",
              "rms_norm_eps", "tie_word_embeddings", "hidden_act", "attention_bias", "rope_scaling",
              "rope_parameters", "rope_theta"},
             other_keys(family));
  return c;
}

}  // namespace dream_r
