"""Four-bit checkpoints: activation-aware scales and clipping, written in AutoAWQ's gemm layout.

Needs torch (`pip install 'dream-r[quantize]'`). For small models: weights and one copy of them are
in memory. What is not a linear of a text layer stays in 16 bits: embeddings, head, vision.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from dream_r.checkpoint import Checkpoint
from dream_r.quantize.calibration import Sample, inputs_of
from dream_r.quantize.layers import LINEARS, largest_group, quantise_layer

ROOTS = ("model.language_model.", "language_model.model.", "model.")
Progress = Callable[[str], None]  # told of each piece of work done: "prompt" or "layer"


def layers_of(checkpoint: Checkpoint) -> int:
    text = checkpoint.config.get("text_config") or checkpoint.config
    return int(text["num_hidden_layers"])


def quantize(
    checkpoint: Checkpoint,
    out: Path,
    samples: Sequence[Sample],
    group: int = 128,
    force: bool = False,
    progress: Progress = lambda what: None,
) -> int:
    """Write a 4-bit copy of a checkpoint; returns the group size, `group` or the next that fits.

    ValueError when it cannot be done. `out` appears when it is complete, not before.
    """
    if out.resolve() == checkpoint.folder.resolve():
        raise ValueError(f"{out}: is the folder to read from; give another one")
    if out.exists() and not force:
        raise ValueError(f"{out}: exists; give another folder or --force")
    if checkpoint.config.get("quantization_config"):
        raise ValueError(f"model {checkpoint.name}: is quantised already")
    if not samples:
        raise ValueError("no calibration prompts: at least one is needed")
    tensors = _read(checkpoint)
    prefixes = _prefixes(checkpoint, tensors)
    widths = {tensors[f"{at}{name}.weight"].shape[1] for at in prefixes for name in LINEARS}
    group = largest_group(widths, group)
    text = checkpoint.config.get("text_config") or checkpoint.config
    head = text.get("head_dim") or text["hidden_size"] // text["num_attention_heads"]
    seen = inputs_of(checkpoint, samples, lambda: progress("prompt"))
    for at, inputs in zip(prefixes, seen, strict=True):
        layer = {n.removeprefix(at): tensors.pop(n) for n in list(tensors) if n.startswith(at)}
        quantise_layer(layer, inputs, group, head)
        inputs.clear()
        tensors.update({f"{at}{name}": tensor for name, tensor in layer.items()})
        progress("layer")
    _write(checkpoint, out, tensors, group)
    return group


def _read(checkpoint: Checkpoint) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for file in sorted(checkpoint.folder.glob("*.safetensors")):
        with safe_open(str(file), framework="pt") as opened:
            tensors.update({name: opened.get_tensor(name) for name in opened.keys()})  # noqa: SIM118
    if not tensors:
        raise ValueError(f"model {checkpoint.name}: the folder has no safetensors")
    return tensors


def _prefixes(checkpoint: Checkpoint, tensors: dict[str, Tensor]) -> list[str]:
    """Where each text layer's tensors are. ValueError when its linears are not those we know."""
    root = next((r for r in ROOTS if f"{r}embed_tokens.weight" in tensors), ROOTS[0])
    found = [f"{root}layers.{i}." for i in range(layers_of(checkpoint))]
    for at in found:
        for name in LINEARS:
            if f"{at}{name}.weight" not in tensors:
                raise ValueError(
                    f"model {checkpoint.name}: tensor {at}{name}.weight is missing; models of "
                    "other layers (mixtures of experts) are quantised with llm-compressor"
                )
            if tensors[f"{at}{name}.weight"].shape[0] % 8:
                raise ValueError(
                    f"model {checkpoint.name}: tensor {at}{name}.weight: its outputs are no "
                    "multiple of 8"
                )
    return found


def _write(checkpoint: Checkpoint, out: Path, tensors: dict[str, Tensor], group: int) -> None:
    """Everything in a folder beside `out`, which then takes its name."""
    out.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        for file in checkpoint.folder.iterdir():
            if file.is_file() and file.suffix in (".json", ".jinja", ".txt"):
                shutil.copyfile(file, made / file.name)
        (made / "model.safetensors.index.json").unlink(missing_ok=True)
        config = {**checkpoint.config, "quantization_config": _settings(group)}
        (made / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        save_file(
            {name: tensor.contiguous() for name, tensor in tensors.items()},
            made / "model.safetensors",
            metadata={"format": "pt"},
        )
        made.chmod(0o755)
        if out.exists():
            shutil.rmtree(out)
        os.replace(made, out)
    except OSError as error:
        raise ValueError(f"{out}: cannot be written: {error.strerror}") from None
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _settings(group: int) -> dict[str, Any]:
    return {
        "quant_method": "awq",
        "version": "gemm",
        "bits": 4,
        "group_size": group,
        "zero_point": True,
        "modules_to_not_convert": ["visual", "lm_head"],
    }


__all__ = ["Sample", "layers_of", "quantize"]
