#include "model/config.h"

#include "core/check.h"
#include "model/config_parts.h"
#include "model/files.h"
#include "model/quantization.h"

namespace dream_r {
namespace {

// R-4B's model_type is its own; the name of its architecture is what other runtimes know it by.
bool is_r(const Section& top) {
  const Json* names = top.find("architectures");
  return names && names->is(Json::Type::array) && !names->array().empty() &&
         names->array()[0].string() == "RForConditionalGeneration";
}

void read_qwen(const Section& top, ModelConfig& c) {
  const bool qwen2 = c.model_type == "qwen2_5_vl";
  const TextFamily family = qwen2                            ? TextFamily::qwen2_5_vl
                            : c.model_type == "qwen3_vl_moe" ? TextFamily::qwen3_vl_moe
                                                             : TextFamily::qwen3_vl;
  // Older Qwen2.5-VL checkpoints keep the text's values at the top.
  const bool flat = qwen2 && !top.find("text_config");
  c.text = read_text(flat ? top : top.child("text_config"), top, family);
  const Section vision = top.child("vision_config");
  c.vision = qwen2 ? read_qwen2_5_vision(vision, c.text) : read_qwen3_vision(vision, c.text);
  c.image_token = top.count("image_token_id", 0);
  c.video_token = top.count("video_token_id", 0);
  c.vision_start = top.count("vision_start_token_id", 0);
  c.vision_end = top.count("vision_end_token_id", 0);
}

void read_r(const Section& top, ModelConfig& c) {
  const Section text = top.child("text_config");
  text.only("model_type", "qwen3", {"qwen3"});
  c.text = read_text(text, top, TextFamily::qwen3);
  c.vision = read_siglip_vision(top.child("vision_config"), top, c.text);
  c.image_token = top.count(top.find("image_token_id") ? "image_token_id" : "image_token_index", 0);
}

}  // namespace

ModelConfig read_config(const std::filesystem::path& folder) {
  const auto path = folder / "config.json";
  const Json root = read_json_file(path);
  const Section top(root, path.string());
  ModelConfig c;
  c.model_type = top.text("model_type", "");
  const bool r = is_r(top);
  DR_CHECK(r || c.model_type == "qwen3_vl" || c.model_type == "qwen3_vl_moe" ||
           c.model_type == "qwen2_5_vl")
      << top.where() << ": \"model_type\" is \"" << c.model_type
      << "\", only qwen3_vl, qwen3_vl_moe, qwen2_5_vl and the architecture "
         "RForConditionalGeneration are supported";
  if (top.find("quantization_config"))
    c.quantization = read_quantization(top.child("quantization_config"));
  r ? read_r(top, c) : read_qwen(top, c);
  return c;
}

}  // namespace dream_r
