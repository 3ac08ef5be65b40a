"""Sections of M-RoPE where config.json is silent: transformers' own, for heads of 128."""

import json

import pytest
from cases import Runner, worst
from checkpoints import make_qwen
from dream_r import _core

HEADS_OF_128 = {
    "tied": {"head_dim": 128},
    "moe": {"head_dim": 128},
    "qwen2_5": {"hidden_size": 128, "num_attention_heads": 1, "num_key_value_heads": 1},
}
ROPE = {"rope_type": "default", "rope_theta": 10000.0}


@pytest.mark.parametrize("family", HEADS_OF_128)
def test_silent_sections(family, tmp_path):
    tiny = make_qwen(family, tmp_path, **HEADS_OF_128[family], rope_parameters=dict(ROPE))
    saved = json.loads((tmp_path / "config.json").read_text())
    assert "mrope_section" not in saved["text_config"]["rope_parameters"]
    p = tiny.prompt("two images")
    ours = _core.model.load(str(tmp_path), "f32")
    assert worst(Runner(ours, p).prefill(), tiny.logits(p)) < 1e-4
