"""Sizes of the two models, and the config.json that transformers reads."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Shape:
    """Sizes of a tiny Qwen3-VL; every width is a multiple of 32."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    ffn: int
    vision: int
    vision_layers: int
    vision_heads: int
    vision_ffn: int
    deepstack: tuple[int, ...]
    vocab: int = 544
    head_dim: int = 32
    side: int = 16  # the vision tower's table of positions is side x side
    mrope: tuple[int, int, int] = (6, 5, 5)
    theta: float = 10_000.0


TARGET = Shape(
    hidden=256,
    layers=6,
    heads=8,
    kv_heads=4,
    ffn=704,
    vision=96,
    vision_layers=3,
    vision_heads=3,
    vision_ffn=256,
    deepstack=(0, 1),
)
DRAFT = Shape(
    hidden=96,
    layers=3,
    heads=4,
    kv_heads=2,
    ffn=256,
    vision=32,
    vision_layers=2,
    vision_heads=1,
    vision_ffn=64,
    deepstack=(0,),
)
SHAPES = {"target": TARGET, "draft": DRAFT}


def config(shape: Shape, ids: dict[str, int]) -> dict:
    """config.json of a model of this shape; `ids` maps special tokens to their ids."""
    text = {
        "model_type": "qwen3_vl_text",
        "vocab_size": shape.vocab,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.ffn,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-6,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        "use_cache": True,
        "tie_word_embeddings": True,
        "bos_token_id": ids["<|endoftext|>"],
        "eos_token_id": ids["<|im_end|>"],
        "rope_theta": shape.theta,
        "dtype": "bfloat16",
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": shape.theta,
            "mrope_interleaved": True,
            "mrope_section": list(shape.mrope),
        },
        "rope_scaling": {
            "rope_type": "default",
            "mrope_interleaved": True,
            "mrope_section": list(shape.mrope),
        },
    }
    vision = {
        "model_type": "qwen3_vl_vision",
        "depth": shape.vision_layers,
        "hidden_size": shape.vision,
        "hidden_act": "gelu_pytorch_tanh",
        "intermediate_size": shape.vision_ffn,
        "num_heads": shape.vision_heads,
        "in_channels": 3,
        "patch_size": 16,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "out_hidden_size": shape.hidden,
        "num_position_embeddings": shape.side**2,
        "deepstack_visual_indexes": list(shape.deepstack),
        "initializer_range": 0.02,
    }
    return {
        "architectures": ["Qwen3VLForConditionalGeneration"],
        "model_type": "qwen3_vl",
        "dtype": "bfloat16",
        "tie_word_embeddings": True,
        "text_config": text,
        "vision_config": vision,
        "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"],
        "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"],
    }
