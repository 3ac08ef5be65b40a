#include <string>

#include "doctest.h"
#include "files.h"
#include "model/model.h"

using namespace dream_r;
using test::error_of;
using test::has;

namespace {

const std::string kGood = R"({
  "architectures": ["Qwen3VLForConditionalGeneration"], "model_type": "qwen3_vl",
  "image_token_id": 5, "video_token_id": 6, "vision_start_token_id": 7, "vision_end_token_id": 8,
  "tie_word_embeddings": true,
  "text_config": {
    "model_type": "qwen3_vl_text", "hidden_size": 64, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "intermediate_size": 96,
    "vocab_size": 320, "rms_norm_eps": 1e-06, "hidden_act": "silu", "attention_bias": false,
    "max_position_embeddings": 4096, "use_cache": true,
    "rope_parameters": {"mrope_interleaved": true, "mrope_section": [4, 2, 2],
                        "rope_theta": 10000.0, "rope_type": "default"}
  },
  "vision_config": {
    "model_type": "qwen3_vl_vision", "hidden_size": 48, "depth": 4, "num_heads": 2,
    "intermediate_size": 80, "out_hidden_size": 64, "deepstack_visual_indexes": [0, 1, 3],
    "num_position_embeddings": 16, "hidden_act": "gelu_pytorch_tanh", "patch_size": 16,
    "spatial_merge_size": 2, "temporal_patch_size": 2, "in_channels": 3
  }
})";

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  const auto at = text.find(from);
  REQUIRE(at != std::string::npos);
  return text.replace(at, from.size(), to);
}

ModelConfig read(const std::string& text) {
  const test::TempFolder folder;
  folder.write("config.json", text);
  return read_config(folder.path());
}

// The Error of kGood with one edit; it must name the file.
std::string refused(const std::string& from, const std::string& to) {
  const std::string error = error_of([&] { read(replaced(kGood, from, to)); });
  CHECK(has(error, "config.json"));
  return error;
}

}  // namespace

TEST_CASE("config: a good one") {
  const ModelConfig c = read(kGood);
  CHECK(c.text.hidden == 64);
  CHECK(c.text.kv_heads == 2);
  CHECK(c.text.vocab == 320);
  CHECK(c.text.rope_theta == 10000.0);
  CHECK(c.text.mrope_sections == std::array<int, 3>{4, 2, 2});
  CHECK(c.text.tied_head);
  CHECK(c.vision.depth == 4);
  CHECK(c.vision.deepstack_layers == std::vector<int>{0, 1, 3});
  CHECK(c.image_token == 5);
}

TEST_CASE("config: the older spelling of rope, and where the tie may stand") {
  const ModelConfig c = read(
      replaced(kGood, R"("rope_parameters": {"mrope_interleaved": true, "mrope_section": [4, 2, 2],
                        "rope_theta": 10000.0, "rope_type": "default"})",
               R"("rope_theta": 5000000, "rope_scaling": {"mrope_interleaved": true,
                                      "mrope_section": [4, 2, 2], "rope_type": "default"})"));
  CHECK(c.text.rope_theta == 5e6);
  const std::string untied = replaced(kGood, "\"tie_word_embeddings\": true,", "");
  CHECK_FALSE(read(untied).text.tied_head);
  CHECK(read(replaced(untied, "\"use_cache\"", "\"tie_word_embeddings\": true, \"use_cache\""))
            .text.tied_head);
}

TEST_CASE("config: sections of M-RoPE where it is silent are those of heads of 128") {
  const std::string silent = replaced(kGood, " \"mrope_section\": [4, 2, 2],", "");
  const auto wide = replaced(silent, "\"head_dim\": 16", "\"head_dim\": 128");
  CHECK(read(wide).text.mrope_sections == std::array<int, 3>{24, 20, 20});
  CHECK(has(error_of([&] { read(silent); }), "rope_parameters: \"mrope_section\" is missing"));
  const auto none = replaced(wide, R"("rope_parameters": {"mrope_interleaved": true,
                        "rope_theta": 10000.0, "rope_type": "default"})",
                             R"("rope_theta": 10000, "rope_scaling": null)");
  CHECK(read(none).text.mrope_sections == std::array<int, 3>{24, 20, 20});
  CHECK(has(error_of([&] { read(replaced(none, "\"rope_theta\": 10000, ", "")); }),
            "\"rope_theta\" is missing"));
}

TEST_CASE("config: what would change the computation is refused by key") {
  CHECK(has(refused("\"qwen3_vl\"", "\"qwen3_vl_next\""), "model_type"));
  CHECK(has(refused("\"silu\"", "\"gelu\""), "hidden_act"));
  CHECK(has(refused("gelu_pytorch_tanh", "silu"), "hidden_act"));
  CHECK(has(refused("\"attention_bias\": false", "\"attention_bias\": true"), "attention_bias"));
  CHECK(has(refused("\"rope_type\": \"default\"", "\"rope_type\": \"yarn\""), "rope_type"));
  CHECK(has(refused("\"mrope_interleaved\": true", "\"mrope_interleaved\": false"),
            "mrope_interleaved"));
  CHECK(has(refused("[4, 2, 2]", "[4, 2, 3]"), "mrope_section"));
  CHECK(has(refused("\"rope_type\":", "\"factor\": 2.0, \"rope_type\":"), "factor"));
  CHECK(has(refused("\"use_cache\"", "\"sliding_window\": 128, \"use_cache\""), "sliding_window"));
  CHECK(
      has(refused("\"patch_size\"", "\"fullatt_block_indexes\": [1], \"patch_size\""), "fullatt"));
  CHECK(has(refused("\"image_token_id\": 5",
                    "\"quantization_config\": {\"bits\": 4}, \"image_token_id\": 5"),
            "quantization_config"));
}

TEST_CASE("config: keys that are switched off do no harm") {
  CHECK_NOTHROW(read(replaced(kGood, "\"use_cache\"", "\"sliding_window\": null, \"use_cache\"")));
  CHECK_NOTHROW(
      read(replaced(kGood, "\"use_cache\"", "\"use_sliding_window\": false, \"use_cache\"")));
}

TEST_CASE("config: missing and impossible values are refused by key") {
  CHECK(has(refused("\"hidden_size\": 64,", ""), "text_config: \"hidden_size\" is missing"));
  CHECK(has(refused("\"image_token_id\": 5,", ""), "image_token_id"));
  CHECK(has(refused("\"num_hidden_layers\": 4", "\"num_hidden_layers\": 0"), "num_hidden_layers"));
  CHECK(
      has(refused("\"num_hidden_layers\": 4", "\"num_hidden_layers\": 1e3"), "num_hidden_layers"));
  CHECK(has(refused("\"vocab_size\": 320", "\"vocab_size\": \"320\""), "vocab_size"));
  CHECK(has(refused("\"num_key_value_heads\": 2", "\"num_key_value_heads\": 3"),
            "num_key_value_heads"));
  CHECK(has(refused("\"head_dim\": 16", "\"head_dim\": 24"), "head_dim"));
  CHECK(has(refused("\"out_hidden_size\": 64", "\"out_hidden_size\": 32"), "out_hidden_size"));
  CHECK(has(refused("\"num_position_embeddings\": 16", "\"num_position_embeddings\": 15"),
            "no square"));
  CHECK(has(refused("[0, 1, 3]", "[0, 1, 4]"), "deepstack_visual_indexes"));
  CHECK(has(refused("[0, 1, 3]", "[1, 0]"), "deepstack_visual_indexes"));
  CHECK(has(refused("\"num_heads\": 2", "\"num_heads\": 5"), "heads"));
  const test::TempFolder empty;
  CHECK(has(error_of([&] { read_config(empty.path()); }), "config.json: cannot be read"));
}
