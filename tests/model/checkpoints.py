"""Writing the tiny checkpoints: by transformers where it knows the family."""

import json
from pathlib import Path

import families
import torch
import transformers

# What differs between the variants is what the code branches on.
VARIANTS = {
    # a tied head; a vision head of 32, as wide as a power of two
    "tied": lambda: families.qwen3(
        True,
        {"num_hidden_layers": 4, "head_dim": 16, "mrope_section": [4, 2, 2]},
        {"hidden_size": 64, "deepstack_visual_indexes": [0, 1, 3]},
    ),
    # a head of its own; vision heads of 24, a multiple of 8 and not of 16; DeepStack up to the last
    # text layer
    "untied": lambda: families.qwen3(
        False,
        {"num_hidden_layers": 3, "head_dim": 32, "mrope_section": [6, 5, 5]},
        {"hidden_size": 48, "deepstack_visual_indexes": [0, 2, 3]},
    ),
    "moe": families.qwen3_moe,
    "qwen2_5": families.qwen2_5,
}


def randomise(model: "torch.nn.Module") -> None:
    """Weights large enough that every part of the model shows in the logits."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            if "experts" in name:
                p.copy_(noise / p.shape[-1] ** 0.5)
            elif p.dim() >= 2:
                p.copy_(noise / p[0].numel() ** 0.5 if "embed" not in name else noise * 0.5)
            else:
                p.copy_((1.0 if name.endswith("weight") else 0.0) + 0.2 * noise)


def make_qwen(name: str, folder: Path, **text) -> families.QwenTiny:
    """`text`: what differs in the text's config."""
    kind, config = VARIANTS[name]()
    for key, value in text.items():
        setattr(config.text_config, key, value)
    reference = kind._from_config(
        config,
        attn_implementation="eager",
        experts_implementation="eager",
        dtype=torch.float32,
    ).eval()
    randomise(reference)
    reference.save_pretrained(folder)
    return families.QwenTiny(folder, reference)


def make_r(folder: Path) -> families.RTiny:
    """R-4B is LLaVA-OneVision around a Qwen3, with a norm before the projector; its weights are
    spelled as its checkpoint spells them."""
    from safetensors.torch import save_file

    config = families.r_config()
    reference = transformers.LlavaOnevisionForConditionalGeneration._from_config(
        config, attn_implementation="eager", dtype=torch.float32
    )
    projector = reference.model.multi_modal_projector
    projector.pre_norm = torch.nn.LayerNorm(config.vision_config.hidden_size, eps=1e-6)
    projector.register_forward_pre_hook(lambda module, args: (module.pre_norm(args[0]),))
    reference.eval()
    randomise(reference)
    tower = "model.vision_tower."
    weights = {}
    for name, tensor in reference.state_dict().items():
        if name.startswith(tower) and not name.startswith(tower + "vision_model."):
            name = name.replace(tower, tower + "vision_model.")
        if name != "lm_head.weight":  # tied
            weights[name] = tensor.contiguous()
    save_file(weights, folder / "model.safetensors")
    values = {
        **config.to_dict(),
        "architectures": ["RForConditionalGeneration"],
        "model_type": "R",
    }
    (folder / "config.json").write_text(json.dumps(values))
    return families.RTiny(folder, reference)
