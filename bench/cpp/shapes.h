#pragma once
// True shapes of public models without their vision towers (as their config.json has them), for
// random_model.
#include <algorithm>
#include <array>
#include <string>

#include "core/check.h"
#include "model/config.h"

namespace dream_r::bench {

inline ModelConfig text_model(int hidden, int layers, int heads, int kv_heads, int dim, int ffn,
                              int vocab, bool tied = true) {
  ModelConfig c;
  c.model_type = "qwen3_vl";
  c.text.hidden = hidden;
  c.text.layers = layers;
  c.text.heads = heads;
  c.text.kv_heads = kv_heads;
  c.text.head_dim = dim;
  c.text.ffn = ffn;
  c.text.vocab = vocab;
  c.text.tied_head = tied;
  const int side = dim / 2 * 5 / 16;  // 24, 20, 20 of 64
  c.text.mrope_sections = {dim / 2 - 2 * side, side, side};
  return c;
}

// Every layer has 128 experts, 8 to a token.
inline ModelConfig experts_model(int hidden, int layers, int heads, int kv_heads, int expert_ffn,
                                 int vocab, bool tied = false) {
  ModelConfig c = text_model(hidden, layers, heads, kv_heads, 128, expert_ffn, vocab, tied);
  c.model_type = "qwen3_vl_moe";
  c.text.moe = {.experts = 128, .per_token = 8, .ffn = expert_ffn, .dense_layers = {}};
  return c;
}

struct NamedModel {
  std::string name;
  ModelConfig config;
};

constexpr int kQwenVocab = 151936;

// Qwen3-0.6B, then the Qwen3-VL family.
inline std::array<NamedModel, 7> qwen_models() {
  return {{
      {"0.6B", text_model(1024, 28, 16, 8, 128, 3072, kQwenVocab)},
      {"2B", text_model(2048, 28, 16, 8, 128, 6144, kQwenVocab)},
      {"4B", text_model(2560, 36, 32, 8, 128, 9728, kQwenVocab)},
      {"8B", text_model(4096, 36, 32, 8, 128, 12288, kQwenVocab, false)},
      {"32B", text_model(5120, 64, 64, 8, 128, 25600, kQwenVocab, false)},
      {"30B-A3B", experts_model(2048, 48, 32, 4, 768, kQwenVocab)},
      {"235B-A22B", experts_model(4096, 94, 64, 4, 1536, kQwenVocab)},
  }};
}

inline ModelConfig qwen_model(const std::string& name) {
  const auto models = qwen_models();
  const auto it = std::find_if(models.begin(), models.end(),
                               [&](const NamedModel& m) { return m.name == name; });
  DR_CHECK(it != models.end()) << "no model is named " << name;
  return it->config;
}

constexpr int kGroup = 128;  // of INT4: elements that share a scale, as checkpoints have it

// The linears of the layers in INT4, all else as it is. Error where a group divides no row.
inline ModelConfig quantised(ModelConfig config) {
  config.quantization = {Quantization::Method::pack_quantized, kGroup, true};
  return config;
}

}  // namespace dream_r::bench
