"""Random Qwen3-VL weights for a checkpoint folder, written without torch."""

import json
import struct
from pathlib import Path

import numpy as np

HIDDEN, FFN, HEADS, KV_HEADS, HEAD = 64, 96, 4, 2, 16
VISION, VISION_FFN = 32, 64


def write_weights(
    folder: Path, layers: int, seed: int, positions: int = 2048, padding: int = 8
) -> None:
    """Complete the folder's config.json for a model of `layers` text layers and add weights."""
    config = json.loads((folder / "config.json").read_text())
    vocab = (
        max(
            json.loads((folder / "tokenizer.json").read_text())["added_tokens"],
            key=lambda t: t["id"],
        )["id"]
        + 1
        + padding
    )
    rope = {
        "rope_type": "default",
        "rope_theta": 10000.0,
        "mrope_interleaved": True,
        "mrope_section": [4, 2, 2],
    }
    config.update(
        {
            "architectures": ["Qwen3VLForConditionalGeneration"],
            "tie_word_embeddings": True,
            "text_config": {
                "model_type": "qwen3_vl_text",
                "vocab_size": vocab,
                "hidden_size": HIDDEN,
                "intermediate_size": FFN,
                "num_hidden_layers": layers,
                "num_attention_heads": HEADS,
                "num_key_value_heads": KV_HEADS,
                "head_dim": HEAD,
                "hidden_act": "silu",
                "max_position_embeddings": positions,
                "rms_norm_eps": 1e-6,
                "rope_theta": 10000.0,
                "rope_parameters": rope,
                "tie_word_embeddings": True,
            },
            "vision_config": {
                "model_type": "qwen3_vl_vision",
                "depth": 1,
                "hidden_size": VISION,
                "intermediate_size": VISION_FFN,
                "num_heads": 2,
                "in_channels": 3,
                "patch_size": 16,
                "spatial_merge_size": 2,
                "temporal_patch_size": 2,
                "out_hidden_size": HIDDEN,
                "num_position_embeddings": 256,
                "deepstack_visual_indexes": [0],
                "hidden_act": "gelu_pytorch_tanh",
            },
            "video_token_id": config["image_token_id"] + 1,
            "vision_start_token_id": config["image_token_id"] - 3,
            "vision_end_token_id": config["image_token_id"] - 2,
        }
    )
    (folder / "config.json").write_text(json.dumps(config))
    rng = np.random.default_rng(seed)
    tensors = {
        name: (
            np.ones(shape) if len(shape) == 1 and "bias" not in name else rng.normal(0, 0.2, shape)
        ).astype(np.float32)
        for name, shape in shapes(layers, vocab).items()
    }
    header, at = {}, 0
    for name, t in tensors.items():
        header[name] = {"dtype": "F32", "shape": t.shape, "data_offsets": [at, at + t.nbytes]}
        at += t.nbytes
    head = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as out:
        out.write(struct.pack("<Q", len(head)) + head)
        out.writelines(t.tobytes() for t in tensors.values())


def shapes(layers: int, vocab: int) -> dict[str, tuple[int, ...]]:
    text, eye, wide = "model.language_model.", "model.visual.", 4 * VISION
    found = {f"{text}embed_tokens.weight": (vocab, HIDDEN), f"{text}norm.weight": (HIDDEN,)}
    for i in range(layers):
        layer = f"{text}layers.{i}."
        found |= {
            f"{layer}{name}.weight": shape
            for name, shape in {
                "input_layernorm": (HIDDEN,),
                "post_attention_layernorm": (HIDDEN,),
                "mlp.gate_proj": (FFN, HIDDEN),
                "mlp.up_proj": (FFN, HIDDEN),
                "mlp.down_proj": (HIDDEN, FFN),
                "self_attn.q_norm": (HEAD,),
                "self_attn.k_norm": (HEAD,),
                "self_attn.q_proj": (HEADS * HEAD, HIDDEN),
                "self_attn.k_proj": (KV_HEADS * HEAD, HIDDEN),
                "self_attn.v_proj": (KV_HEADS * HEAD, HIDDEN),
                "self_attn.o_proj": (HIDDEN, HEADS * HEAD),
            }.items()
        }
    linears = {
        "blocks.0.attn.qkv": (3 * VISION, VISION),
        "blocks.0.attn.proj": (VISION, VISION),
        "blocks.0.mlp.linear_fc1": (VISION_FFN, VISION),
        "blocks.0.mlp.linear_fc2": (VISION, VISION_FFN),
        "patch_embed.proj": (VISION, 3, 2, 16, 16),
    }
    norms = {
        "blocks.0.norm1": VISION,
        "blocks.0.norm2": VISION,
        "merger.norm": VISION,
        "deepstack_merger_list.0.norm": wide,
    }
    for merger in ("merger", "deepstack_merger_list.0"):
        linears |= {f"{merger}.linear_fc1": (wide, wide), f"{merger}.linear_fc2": (HIDDEN, wide)}
    for name, shape in {**linears, **{n: (size,) for n, size in norms.items()}}.items():
        found |= {f"{eye}{name}.weight": shape, f"{eye}{name}.bias": shape[:1]}
    return found | {f"{eye}pos_embed.weight": (256, VISION)}
