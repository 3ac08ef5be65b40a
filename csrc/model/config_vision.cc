#include <cmath>

#include "core/check.h"
#include "model/config_parts.h"

namespace dream_r {
namespace {

void check_heads(const Section& s, const VisionConfig& c) {
  DR_CHECK(c.hidden % c.heads == 0 && c.hidden / c.heads % 8 == 0)
      << s.where() << ": \"hidden_size\" " << c.hidden << " over " << c.heads
      << " heads is no multiple of 8";
}

void check_layers(const Section& s, const char* key, const std::vector<int>& layers, int depth) {
  for (std::size_t i = 0; i < layers.size(); ++i)
    DR_CHECK(layers[i] < depth && (i == 0 || layers[i - 1] < layers[i]))
        << s.where() << ": \"" << key << "\" must rise and stay below depth " << depth;
}

// The angles of both Qwen towers; transformers 5 writes them down.
void check_rope(const Section& s) {
  if (!s.find("rope_parameters")) return;
  const Section rope = s.child("rope_parameters");
  rope.only("rope_type", "axial", {"axial"});
  DR_CHECK(!rope.find("rope_theta") || rope.positive("rope_theta") == 10000.0)
      << rope.where() << ": \"rope_theta\" must be 10000";
  rope.no_other({"rope_type", "rope_theta"});
}

// What the towers of Qwen2.5-VL and Qwen3-VL spell alike.
VisionConfig read_qwen(const Section& s, const TextConfig& text) {
  VisionConfig c;
  c.hidden = s.count("hidden_size");
  c.depth = s.count("depth");
  c.heads = s.count("num_heads");
  c.ffn = s.count("intermediate_size");
  c.out_hidden = s.count("out_hidden_size");
  c.temporal_patch = s.count_or("temporal_patch_size", c.temporal_patch);
  c.merge = s.count_or("spatial_merge_size", c.merge);
  check_heads(s, c);
  check_rope(s);
  DR_CHECK(c.out_hidden == text.hidden) << s.where() << ": \"out_hidden_size\" " << c.out_hidden
                                        << " is not the text's hidden_size " << text.hidden;
  return c;
}

}  // namespace

VisionConfig read_qwen3_vision(const Section& s, const TextConfig& text) {
  VisionConfig c = read_qwen(s, text);
  c.patch = s.count_or("patch_size", c.patch);
  c.channels = s.count_or("in_channels", c.channels);
  c.position_embeddings = s.count_or("num_position_embeddings", c.position_embeddings);
  c.deepstack_layers = s.counts("deepstack_visual_indexes");
  s.only("hidden_act", "gelu_pytorch_tanh", {"gelu_pytorch_tanh"});
  s.no_other({"hidden_size", "depth", "num_heads", "intermediate_size", "out_hidden_size",
              "patch_size", "temporal_patch_size", "spatial_merge_size", "in_channels",
              "num_position_embeddings", "deepstack_visual_indexes", "hidden_act",
              "rope_parameters"});
  const int side = static_cast<int>(std::lround(std::sqrt(c.position_embeddings)));
  DR_CHECK(side * side == c.position_embeddings)
      << s.where() << ": \"num_position_embeddings\" " << c.position_embeddings << " is no square";
  DR_CHECK(static_cast<int>(c.deepstack_layers.size()) <= text.layers)
      << s.where() << ": more \"deepstack_visual_indexes\" than text layers";
  check_layers(s, "deepstack_visual_indexes", c.deepstack_layers, c.depth);
  return c;
}

VisionConfig read_qwen2_5_vision(const Section& s, const TextConfig& text) {
  VisionConfig c = read_qwen(s, text);
  c.kind = VisionKind::qwen2_5;
  c.patch = s.count_or("patch_size", 14);
  c.channels = s.count_or(s.find("in_chans") ? "in_chans" : "in_channels", c.channels);
  c.window = s.count_or("window_size", c.window);
  c.full_layers = s.counts("fullatt_block_indexes");
  s.only("hidden_act", "silu", {"silu"});
  DR_CHECK(c.window >= c.patch * c.merge)
      << s.where() << ": \"window_size\" " << c.window << " holds no " << c.merge << " x "
      << c.merge << " patches of " << c.patch;
  check_layers(s, "fullatt_block_indexes", c.full_layers, c.depth);
  s.no_other({"hidden_size", "depth", "num_heads", "intermediate_size", "out_hidden_size",
              "patch_size", "temporal_patch_size", "spatial_merge_size", "in_channels", "in_chans",
              "window_size", "fullatt_block_indexes", "hidden_act", "rope_parameters"},
             // of videos alone, and a second name of patch_size
             {"tokens_per_second", "spatial_patch_size"});
  return c;
}

namespace {

// "image_grid_pinpoints": [[height, width], ...], multiples of a tile.
std::vector<std::array<int, 2>> read_pinpoints(const Section& top, int image) {
  const Json& list = top.need("image_grid_pinpoints");
  DR_CHECK(list.is(Json::Type::array) && !list.array().empty())
      << top.where() << ": \"image_grid_pinpoints\" must be a list of [height, width]";
  std::vector<std::array<int, 2>> out;
  for (const Json& point : list.array()) {
    const auto& p = point.array();
    const auto good = [image](const Json& v) {
      return v.is(Json::Type::integer) && v.integer() > 0 && v.integer() <= 1 << 20 &&
             v.integer() % image == 0;
    };
    DR_CHECK(p.size() == 2 && good(p[0]) && good(p[1]))
        << top.where() << ": \"image_grid_pinpoints\" must be pairs of multiples of image_size "
        << image;
    out.push_back({static_cast<int>(p[0].integer()), static_cast<int>(p[1].integer())});
  }
  return out;
}

// "anyres_max_<n>"
int read_max_tiles(const Section& top) {
  const std::string head = "anyres_max_", got = top.text("vision_aspect_ratio", "anyres_max_9");
  const std::string digits = got.starts_with(head) ? got.substr(head.size()) : "";
  DR_CHECK(!digits.empty() && digits.size() <= 4 &&
           digits.find_first_not_of("0123456789") == std::string::npos && std::stoi(digits) > 0)
      << top.where() << ": \"vision_aspect_ratio\" is \"" << got
      << "\", only \"anyres_max_<number>\" is supported";
  return std::stoi(digits);
}

// Which of the tower's hidden states is the feature: counted from 0, the patch embedding, or back
// from the last layer's output. The blocks after it do not run.
int read_feature_layer(const Section& top, int depth) {
  const Json* v = top.find("vision_feature_layer");
  const std::int64_t layer = v ? v->integer() : -1;
  const std::int64_t blocks = layer < 0 ? depth + 1 + layer : layer;
  DR_CHECK((!v || v->is(Json::Type::integer)) && blocks >= 0 && blocks <= depth)
      << top.where() << ": \"vision_feature_layer\" must be one layer of a tower of " << depth;
  return static_cast<int>(blocks);
}

}  // namespace

VisionConfig read_siglip_vision(const Section& s, const Section& top, const TextConfig& text) {
  VisionConfig c;
  c.kind = VisionKind::siglip;
  c.merge = c.temporal_patch = 1;
  // Where config.json is silent the defaults of a SiglipVisionConfig hold, which transformers
  // leaves out.
  c.hidden = s.count_or("hidden_size", 768);
  c.heads = s.count_or("num_attention_heads", 12);
  c.ffn = s.count_or("intermediate_size", 3072);
  c.patch = s.count_or("patch_size", 16);
  c.image = s.count_or("image_size", 224);
  c.channels = s.count_or("num_channels", 3);
  if (s.find("layer_norm_eps")) c.eps = static_cast<float>(s.positive("layer_norm_eps"));
  s.only("model_type", "", {"siglip_vision_model"});
  s.only("hidden_act", "gelu_pytorch_tanh", {"gelu_pytorch_tanh"});
  s.no_other({"hidden_size", "num_attention_heads", "intermediate_size", "patch_size", "image_size",
              "num_channels", "layer_norm_eps", "hidden_act", "num_hidden_layers"},
             {"vision_use_head", "projection_dim"});
  DR_CHECK(c.image >= c.patch) << s.where() << ": \"image_size\" " << c.image
                               << " is less than a patch of " << c.patch;
  check_heads(s, c);
  c.depth = read_feature_layer(top, s.count_or("num_hidden_layers", 12));
  c.out_hidden = text.hidden;
  c.pinpoints = read_pinpoints(top, c.image);
  c.max_tiles = read_max_tiles(top);
  top.only("vision_feature_select_strategy", "full", {"full"});
  top.only("projector_hidden_act", "gelu", {"gelu"});
  DR_CHECK(top.flag("use_image_newline_parameter", true))
      << top.where() << ": \"use_image_newline_parameter\" false is not supported";
  DR_CHECK(top.flag("multimodal_projector_bias", true))
      << top.where() << ": \"multimodal_projector_bias\" false is not supported";
  return c;
}

}  // namespace dream_r
