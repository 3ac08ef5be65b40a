"""A trained checkpoint becomes a model folder that transformers, and the runtime, load."""

import os
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

from train.pocket.folder import write_folder
from train.pocket.shapes import SHAPES


def export(role: str, checkpoint: Path, folder: Path) -> None:
    """Write `folder` (whole or not at all) with bf16 weights and all that belongs to them."""
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    write_folder(part, SHAPES[role])
    weights = torch.load(checkpoint, weights_only=False)["model"]
    # lm_head is tied to the embedding; transformers and the runtime both read it from there.
    save_file(
        {k: v.to(torch.bfloat16).contiguous() for k, v in weights.items()},
        str(part / "model.safetensors"),
        metadata={"format": "pt"},
    )
    (part / "model.safetensors").chmod(0o644)
    if (folder / "README.md").exists():
        shutil.copy(folder / "README.md", part / "README.md")
    if folder.exists():
        old = folder.with_name(folder.name + ".old")
        shutil.rmtree(old, ignore_errors=True)
        os.rename(folder, old)
        os.rename(part, folder)
        shutil.rmtree(old)
    else:
        folder.parent.mkdir(parents=True, exist_ok=True)
        os.rename(part, folder)
