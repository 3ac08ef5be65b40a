#pragma once
// The readers of config.json's parts, by model family.
#include "model/config.h"
#include "model/config_section.h"

namespace dream_r {

enum class TextFamily : std::uint8_t { qwen3_vl, qwen3_vl_moe, qwen2_5_vl, qwen3 };

// `top` may hold what the text's own section does not.
TextConfig read_text(const Section& text, const Section& top, TextFamily family);

VisionConfig read_qwen3_vision(const Section& vision, const TextConfig& text);
VisionConfig read_qwen2_5_vision(const Section& vision, const TextConfig& text);
VisionConfig read_siglip_vision(const Section& vision, const Section& top, const TextConfig& text);

}  // namespace dream_r
