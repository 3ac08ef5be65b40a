#pragma once
// config.json of a checkpoint, checked. Only what the runtime uses; anything that would change the
// computation and is not understood is an Error.
#include <algorithm>
#include <array>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "ops/ops.h"

namespace dream_r {

// A mixture of experts in place of the MLP of some layers. experts 0: of none.
struct MoeConfig {
  int experts = 0, per_token = 0, ffn = 0;
  bool renormalise = true;  // the weights of a token's experts sum to 1
  int sparse_step = 1;      // every so many layers
  std::vector<int> dense_layers;

  bool in_layer(int layer) const {
    return experts > 0 && (layer + 1) % sparse_step == 0 &&
           std::find(dense_layers.begin(), dense_layers.end(), layer) == dense_layers.end();
  }
};

struct TextConfig {
  int hidden = 0, layers = 0, heads = 0, kv_heads = 0, head_dim = 0, ffn = 0, vocab = 0;
  float rms_eps = 1e-6f;
  double rope_theta = 5e6;
  ops::MropeLayout mrope_layout = ops::MropeLayout::interleaved;
  std::array<int, 3> mrope_sections{24, 20, 20};
  bool qk_norm = true, qkv_bias = false;
  bool tied_head = false;
  std::int32_t max_positions = 0;
  MoeConfig moe;
};

enum class VisionKind : std::uint8_t { qwen3, qwen2_5, siglip };

struct VisionConfig {
  VisionKind kind = VisionKind::qwen3;
  int hidden = 0, depth = 0, heads = 0, ffn = 0, out_hidden = 0;
  int patch = 16, temporal_patch = 2, merge = 2, channels = 3;
  // qwen3
  int position_embeddings = 2304;     // a square grid
  std::vector<int> deepstack_layers;  // after which vision layers a feature is taken
  // qwen2_5
  int window = 112;              // side of an attention window in pixels
  std::vector<int> full_layers;  // that attend over the whole picture
  // siglip: a picture is seen whole, scaled to image x image, and cut into tiles of that size
  int image = 384;
  int max_tiles = 9;                          // features of more tiles are shrunk to so many
  std::vector<std::array<int, 2>> pinpoints;  // (height, width) that pictures are fitted into
  float eps = 1e-6f;

  int side() const { return image / patch; }  // patches of a tile's side
};

// How INT4 linears are stored (quantization.h).
struct Quantization {
  enum class Method : std::uint8_t { none, awq, pack_quantized };
  Method method = Method::none;
  int group = 0;           // elements of k that share a scale
  bool symmetric = false;  // pack_quantized: no zero points
};

struct ModelConfig {
  std::string model_type;
  TextConfig text;
  VisionConfig vision;  // depth 0: no tower
  Quantization quantization;
  std::int32_t image_token = -1, video_token = -1, vision_start = -1, vision_end = -1;
};

ModelConfig read_config(const std::filesystem::path& folder);

}  // namespace dream_r
