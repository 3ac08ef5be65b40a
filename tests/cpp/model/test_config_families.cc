// The configs of the other families: mixtures of experts, Qwen2.5-VL as published, R-4B.
#include <string>

#include "doctest.h"
#include "files.h"
#include "model/model.h"

using namespace dream_r;
using test::error_of;
using test::has;

namespace {

const std::string kMoe = R"({
  "model_type": "qwen3_vl_moe",
  "image_token_id": 5, "video_token_id": 6, "vision_start_token_id": 7, "vision_end_token_id": 8,
  "text_config": {
    "hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "head_dim": 16,
    "intermediate_size": 96, "vocab_size": 320, "num_experts": 8, "num_experts_per_tok": 2,
    "moe_intermediate_size": 24, "norm_topk_prob": true, "decoder_sparse_step": 1,
    "mlp_only_layers": [2], "router_aux_loss_coef": 0.001,
    "rope_theta": 5000000,
    "rope_scaling": {"mrope_interleaved": true, "mrope_section": [4, 2, 2], "rope_type": "default"}
  },
  "vision_config": {
    "hidden_size": 48, "depth": 4, "num_heads": 2, "intermediate_size": 80, "out_hidden_size": 64,
    "deepstack_visual_indexes": [], "hidden_act": "gelu_pytorch_tanh"
  }
})";

// The text's values at the top, as Qwen2.5-VL checkpoints are published.
const std::string kFlat = R"({
  "architectures": ["Qwen2_5_VLForConditionalGeneration"], "model_type": "qwen2_5_vl",
  "image_token_id": 5, "video_token_id": 6, "vision_start_token_id": 7, "vision_end_token_id": 8,
  "vision_token_id": 9, "hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4,
  "num_key_value_heads": 2, "intermediate_size": 96, "vocab_size": 320, "rms_norm_eps": 1e-06,
  "hidden_act": "silu", "max_window_layers": 28, "sliding_window": 32768,
  "use_sliding_window": false, "rope_theta": 1000000.0,
  "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]},
  "vision_config": {
    "hidden_size": 48, "depth": 4, "num_heads": 2, "intermediate_size": 70, "in_chans": 3,
    "out_hidden_size": 64, "patch_size": 14, "spatial_merge_size": 2, "spatial_patch_size": 14,
    "window_size": 112, "fullatt_block_indexes": [1, 3], "tokens_per_second": 2,
    "temporal_patch_size": 2
  }
})";

const std::string kR = R"({
  "architectures": ["RForConditionalGeneration"], "model_type": "R", "image_token_index": 5,
  "image_grid_pinpoints": [[384, 384], [384, 768]], "vision_feature_layer": -1,
  "text_config": {"model_type": "qwen3", "hidden_size": 64, "num_hidden_layers": 4,
                  "num_key_value_heads": 8, "intermediate_size": 96, "rope_theta": 1000000,
                  "tie_word_embeddings": true},
  "vision_config": {"model_type": "siglip_vision_model", "hidden_size": 1152, "image_size": 384,
                    "patch_size": 14, "num_hidden_layers": 27, "num_attention_heads": 16,
                    "intermediate_size": 4304, "vision_use_head": false}
})";

ModelConfig read(const std::string& text) {
  const test::TempFolder folder;
  folder.write("config.json", text);
  return read_config(folder.path());
}

std::string edited(std::string text, const std::string& from, const std::string& to) {
  const auto at = text.find(from);
  REQUIRE(at != std::string::npos);
  return text.replace(at, from.size(), to);
}

std::string refused(const std::string& text, const std::string& from, const std::string& to) {
  return error_of([&] { read(edited(text, from, to)); });
}

}  // namespace

TEST_CASE("config: which layers have experts") {
  const ModelConfig c = read(kMoe);
  CHECK(c.text.moe.experts == 8);
  CHECK(c.text.moe.per_token == 2);
  CHECK(c.text.moe.ffn == 24);
  CHECK(c.text.moe.renormalise);
  CHECK(c.text.moe.in_layer(1));
  CHECK_FALSE(c.text.moe.in_layer(2));
  const auto step = edited(kMoe, "\"decoder_sparse_step\": 1", "\"decoder_sparse_step\": 3");
  CHECK_FALSE(read(step).text.moe.in_layer(1));
  CHECK_FALSE(read(step).text.moe.in_layer(2));
  const auto none = edited(kMoe, "\"num_experts\": 8", "\"num_experts\": 0");
  CHECK_FALSE(read(none).text.moe.in_layer(1));
  CHECK_FALSE(read(edited(kMoe, "\"norm_topk_prob\": true", "\"norm_topk_prob\": false"))
                  .text.moe.renormalise);
}

TEST_CASE("config: experts that cannot be are refused by key") {
  CHECK(has(refused(kMoe, "\"num_experts_per_tok\": 2", "\"num_experts_per_tok\": 9"), "9 of 8"));
  CHECK(has(refused(kMoe, "[2]", "[4]"), "mlp_only_layers"));
  CHECK(has(refused(kMoe, "\"moe_intermediate_size\": 24,", ""), "moe_intermediate_size"));
  CHECK(has(refused(kMoe, "\"num_experts\": 8,", ""), "num_local_experts"));
  CHECK(has(refused(kMoe, "\"norm_topk_prob\"", "\"shared_experts\": 1, \"norm_topk_prob\""),
            "shared_experts"));
}

TEST_CASE("config: Qwen2.5-VL with its text at the top") {
  const ModelConfig c = read(kFlat);
  CHECK(c.text.head_dim == 16);
  CHECK(c.text.qkv_bias);
  CHECK_FALSE(c.text.qk_norm);
  CHECK(c.text.mrope_layout == ops::MropeLayout::chunked);
  CHECK(c.text.mrope_sections == std::array<int, 3>{2, 3, 3});
  CHECK(c.text.rms_eps == 1e-6f);
  CHECK(read(edited(kFlat, "\"rms_norm_eps\": 1e-06,", "")).text.rms_eps == 1e-5f);
  CHECK(c.vision.kind == VisionKind::qwen2_5);
  CHECK(c.vision.window == 112);
  CHECK(c.vision.full_layers == std::vector<int>{1, 3});
}

TEST_CASE("config: sections of M-RoPE where Qwen2.5-VL is silent are those of heads of 128") {
  const auto silent = edited(kFlat, ", \"mrope_section\": [2, 3, 3]", "");
  CHECK(has(error_of([&] { read(silent); }), "rope_scaling: \"mrope_section\" is missing"));
  const auto two = edited(silent, "\"num_attention_heads\": 4", "\"num_attention_heads\": 2");
  const auto wide = edited(edited(two, "\"hidden_size\": 64", "\"hidden_size\": 256"),
                           "\"out_hidden_size\": 64", "\"out_hidden_size\": 256");
  CHECK(read(wide).text.mrope_sections == std::array<int, 3>{16, 24, 24});
}

TEST_CASE("config: of Qwen2.5-VL what would change the computation is refused by key") {
  CHECK(has(refused(kFlat, "\"use_sliding_window\": false", "\"use_sliding_window\": true"),
            "use_sliding_window"));
  CHECK(has(refused(kFlat, "\"type\": \"mrope\"", "\"type\": \"yarn\""), "yarn"));
  CHECK(has(refused(kFlat, "[2, 3, 3]", "[2, 3, 4]"), "mrope_section"));
  CHECK(has(refused(kFlat, "\"hidden_size\": 64", "\"hidden_size\": 66"), "hidden_size"));
  CHECK(has(refused(kFlat, "\"use_sliding_window\"", "\"head_dim\": 32, \"use_sliding_window\""),
            "head_dim"));
  CHECK(has(refused(kFlat, "[1, 3]", "[3, 1]"), "fullatt_block_indexes"));
  CHECK(has(refused(kFlat, "\"window_size\": 112", "\"window_size\": 20"), "window_size"));
  CHECK(has(refused(kFlat, "\"sliding_window\": 32768",
                    "\"layer_types\": [\"sliding_attention\"], \"sliding_window\": 32768"),
            "layer_types"));
}

TEST_CASE("config: R-4B, and what its parts have where it is silent") {
  const ModelConfig c = read(kR);
  CHECK(c.text.heads == 32);
  CHECK(c.text.head_dim == 128);
  CHECK(c.text.vocab == 151936);
  CHECK(c.text.rope_theta == 1e6);
  CHECK(c.text.mrope_sections == std::array<int, 3>{64, 0, 0});
  CHECK(c.text.tied_head);
  CHECK(c.vision.kind == VisionKind::siglip);
  CHECK(c.vision.depth == 27);
  CHECK(c.vision.side() == 27);
  CHECK(c.vision.max_tiles == 9);
  CHECK(c.vision.pinpoints.size() == 2);
  CHECK(c.image_token == 5);
  CHECK(read(edited(kR, "_layer\": -1", "_layer\": -2")).vision.depth == 26);
  CHECK(read(edited(kR, "_layer\": -1", "_layer\": 20")).vision.depth == 20);
}

TEST_CASE("config: of R-4B what is not understood is refused by key") {
  CHECK(has(refused(kR, "_layer\": -1", "_layer\": [-2, -1]"), "vision_feature_layer"));
  CHECK(has(refused(kR, "_layer\": -1", "_layer\": 28"), "vision_feature_layer"));
  CHECK(has(refused(kR, "[384, 768]", "[384, 700]"), "image_grid_pinpoints"));
  CHECK(has(refused(kR, "[[384, 384], [384, 768]]", "[]"), "image_grid_pinpoints"));
  CHECK(has(refused(kR, "siglip_vision_model", "siglip2_vision_model"), "siglip_vision_model"));
  CHECK(has(refused(kR, "\"qwen3\"", "\"qwen2\""), "model_type"));
  const std::string layer = "\"vision_feature_layer\"";
  for (const char* other :
       {"\"vision_aspect_ratio\": \"pad\"", "\"vision_feature_select_strategy\": \"default\"",
        "\"projector_hidden_act\": \"relu\"", "\"multimodal_projector_bias\": false",
        "\"use_image_newline_parameter\": false"}) {
    const std::string error = refused(kR, layer, std::string(other) + ", " + layer);
    CHECK(has(error, std::string(other).substr(0, 12)));
  }
}
