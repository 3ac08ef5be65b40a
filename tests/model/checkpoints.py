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
FAMILIES = (*VARIANTS, "r")

FUSED = ("mlp.experts.gate_up_proj", "mlp.experts.down_proj")


def one_by_one(name: str, tensor: "torch.Tensor") -> list[tuple[str, "torch.Tensor"]]:
    """A layer's experts spelled one by one, in the memory of the fused tensor; else as it is."""
    if not name.endswith(FUSED):
        return [(name, tensor)]
    at = name[: name.index("experts.") + len("experts.")]
    kinds = ["down_proj"] if name.endswith("down_proj") else ["gate_proj", "up_proj"]
    return [
        (f"{at}{e}.{kind}.weight", part)
        for e, expert in enumerate(tensor)
        for kind, part in zip(kinds, expert.chunk(len(kinds)), strict=True)
    ]


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
    config.vision_config.out_hidden_size = config.text_config.hidden_size
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
    tiny = families.RTiny(folder, reference)
    save_file({n: t.contiguous() for n, t in tiny.tensors().items()}, folder / "model.safetensors")
    values = {
        **config.to_dict(),
        "architectures": ["RForConditionalGeneration"],
        "model_type": "R",
    }
    (folder / "config.json").write_text(json.dumps(values))
    return tiny


def make(name: str, folder: Path, **text) -> families.Tiny:
    """One of FAMILIES."""
    return make_r(folder) if name == "r" else make_qwen(name, folder, **text)
