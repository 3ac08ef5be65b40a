#pragma once
// A checkpoint whose tensors are f16, of numbers made up: what one reader keeps exactly in
// f32, another in f16.
#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "core/dtype.h"
#include "files.h"

namespace test {

struct F16Sizes {
  int hidden, layers, heads, kv_heads, head_dim, ffn, vocab;
};

// Tensors in the order they are added, each behind the ones before it.
class F16Tensors {
 public:
  explicit F16Tensors(unsigned seed) : engine_(seed) {}
  // Normal about `mean`.
  void add(const std::string& name, const std::vector<int>& shape, float deviation,
           float mean = 0.0f) {
    std::string sizes;
    int n = 1;
    for (const int s : shape) sizes += (sizes.empty() ? "" : ",") + std::to_string(s), n *= s;
    const std::size_t begin = data_.size();
    for (int i = 0; i < n; ++i) {
      const std::uint16_t bits = dream_r::f16(mean + deviation * normal_(engine_)).bits;
      data_ += {static_cast<char>(bits & 255), static_cast<char>(bits >> 8)};
    }
    header_ += (header_.empty() ? "" : ",") + ("\"" + name) + R"(":{"dtype":"F16","shape":[)" +
               sizes + R"(],"data_offsets":[)" + std::to_string(begin) + "," +
               std::to_string(data_.size()) + "]}";
  }
  std::string file() const { return safetensors("{" + header_ + "}", data_); }

 private:
  std::mt19937 engine_;
  std::normal_distribution<float> normal_;
  std::string header_, data_;
};

// A tower of one block for pictures of 4 x 4 patches, hidden size kVisionHidden.
constexpr int kVisionHidden = 32, kVisionFfn = 48, kPatch = 4, kMerged = 4 * kVisionHidden;

inline void add_tower(F16Tensors& t, int out_hidden) {
  const std::string root = "model.visual.";
  const auto linear = [&](const std::string& name, int n, int k) {
    t.add(root + name + ".weight", {n, k}, 1.0f / std::sqrt(static_cast<float>(k)));
    t.add(root + name + ".bias", {n}, 0.1f);
  };
  const auto norm = [&](const std::string& name) {
    t.add(root + name + ".weight", {kVisionHidden}, 0.1f, 1.0f);
    t.add(root + name + ".bias", {kVisionHidden}, 0.1f);
  };
  t.add(root + "patch_embed.proj.weight", {kVisionHidden, 3, 2, kPatch, kPatch}, 0.1f);
  t.add(root + "patch_embed.proj.bias", {kVisionHidden}, 0.1f);
  t.add(root + "pos_embed.weight", {16, kVisionHidden}, 0.5f);
  norm("blocks.0.norm1"), norm("blocks.0.norm2"), norm("merger.norm");
  linear("blocks.0.attn.qkv", 3 * kVisionHidden, kVisionHidden);
  linear("blocks.0.attn.proj", kVisionHidden, kVisionHidden);
  linear("blocks.0.mlp.linear_fc1", kVisionFfn, kVisionHidden);
  linear("blocks.0.mlp.linear_fc2", kVisionHidden, kVisionFfn);
  linear("merger.linear_fc1", kMerged, kMerged), linear("merger.linear_fc2", out_hidden, kMerged);
}

inline std::string config_of(const F16Sizes& s) {
  const auto number = [](const char* name, int v) {
    return std::string("\"") + name + "\":" + std::to_string(v) + ",";
  };
  const int pairs = s.head_dim / 2, side = pairs / 4;
  return R"({"model_type":"qwen3_vl","image_token_id":5,"video_token_id":6,)"
         R"("vision_start_token_id":7,"vision_end_token_id":8,"text_config":{)" +
         number("hidden_size", s.hidden) + number("num_hidden_layers", s.layers) +
         number("num_attention_heads", s.heads) + number("num_key_value_heads", s.kv_heads) +
         number("head_dim", s.head_dim) + number("intermediate_size", s.ffn) +
         number("vocab_size", s.vocab) + number("max_position_embeddings", 4096) +
         R"("tie_word_embeddings":true,"rope_theta":10000,"rope_scaling":{"mrope_interleaved":true,)"
         R"("rope_type":"default","mrope_section":[)" +
         std::to_string(pairs - 2 * side) + "," + std::to_string(side) + "," +
         std::to_string(side) + R"(]}},"vision_config":{"depth":1,"num_heads":2,)" +
         number("hidden_size", kVisionHidden) + number("intermediate_size", kVisionFfn) +
         number("out_hidden_size", s.hidden) + number("patch_size", kPatch) +
         R"("num_position_embeddings":16,"deepstack_visual_indexes":[],)"
         R"("hidden_act":"gelu_pytorch_tanh"}})";
}

// config.json and model.safetensors.
inline void write_f16_checkpoint(const TempFolder& folder, const F16Sizes& s, unsigned seed) {
  F16Tensors t(seed);
  const std::string root = "model.language_model.";
  const auto matrix = [&](const std::string& name, int n, int k) {
    t.add(root + name + ".weight", {n, k}, 1.0f / std::sqrt(static_cast<float>(k)));
  };
  const auto norm = [&](const std::string& name, int n) {
    t.add(root + name + ".weight", {n}, 0.1f, 1.0f);
  };
  t.add(root + "embed_tokens.weight", {s.vocab, s.hidden}, 0.5f);
  for (int i = 0; i < s.layers; ++i) {
    const std::string at = "layers." + std::to_string(i) + ".";
    norm(at + "input_layernorm", s.hidden), norm(at + "post_attention_layernorm", s.hidden);
    norm(at + "self_attn.q_norm", s.head_dim), norm(at + "self_attn.k_norm", s.head_dim);
    matrix(at + "self_attn.q_proj", s.heads * s.head_dim, s.hidden);
    matrix(at + "self_attn.k_proj", s.kv_heads * s.head_dim, s.hidden);
    matrix(at + "self_attn.v_proj", s.kv_heads * s.head_dim, s.hidden);
    matrix(at + "self_attn.o_proj", s.hidden, s.heads * s.head_dim);
    matrix(at + "mlp.gate_proj", s.ffn, s.hidden), matrix(at + "mlp.up_proj", s.ffn, s.hidden);
    matrix(at + "mlp.down_proj", s.hidden, s.ffn);
  }
  norm("norm", s.hidden);
  add_tower(t, s.hidden);
  folder.write("config.json", config_of(s));
  folder.write("model.safetensors", t.file());
}

}  // namespace test
