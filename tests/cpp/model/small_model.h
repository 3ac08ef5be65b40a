#pragma once
// A text model of a few thousand weights, for random_model.
#include "model/config.h"

namespace test {

inline dream_r::ModelConfig small_model(int layers) {
  dream_r::ModelConfig c;
  c.model_type = "qwen3_vl";
  c.text = {.hidden = 32,
            .layers = layers,
            .heads = 4,
            .kv_heads = 2,
            .head_dim = 16,
            .ffn = 48,
            .vocab = 50,
            .rope_theta = 1e4,
            .mrope_sections = {4, 2, 2},
            .tied_head = true,
            .moe = {}};
  return c;
}

}  // namespace test
