"""Prompts to see activations with, and the inputs of every linear on them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dream_r.checkpoint import POCKET, Checkpoint
from dream_r.config import Request
from dream_r.images import load_picture
from dream_r.messages import of_request
from dream_r.processor import ModelInput, Processor
from dream_r.prompt import load_prompts
from dream_r.quantize.layers import READERS

ROWS = 1024  # tokens kept of each input: enough for the statistics, little enough for memory
LONGEST = 4096  # tokens of a prompt with its response


@dataclass(frozen=True)
class Sample:
    """A question, its pictures, and what a model may say to it: reasoning has activations too."""

    question: str
    images: Sequence[Any]
    response: str = ""


def drawn(count: int) -> Iterator[Sample]:
    """Problems of the pocket world, each with its steps and answer."""
    from dream_r.pocket.problems import answer_text, problem
    from dream_r.pocket.words import END_OF_THINKING

    for i in range(count):
        p = problem(i, 1 + i % 4, split="train")
        response = "".join(p.steps) + END_OF_THINKING + answer_text(p.answer)
        yield Sample(p.question, [p.image], response)


def default(checkpoint: Checkpoint, count: int) -> list[Sample]:
    """For the built-in models their own problems, for others general prompts before these."""
    general = [] if checkpoint.name in POCKET else read(Path(__file__).parent / "prompts.jsonl")
    return [*general[:count], *drawn(max(0, count - len(general)))]


def read(path: Path) -> list[Sample]:
    """Lines of {"question", "images", "response"}; pictures beside the file. ValueError by line."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: cannot be read: {error}") from None
    found = [_sample(f"{path}:{i}", path.parent, line) for i, line in enumerate(lines, 1) if line]
    if not found:
        raise ValueError(f"{path}: no calibration prompts")
    return found


def _sample(where: str, folder: Path, line: str) -> Sample:
    try:
        found = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{where}: not JSON: {error}") from None
    known = {"question": str, "images": list, "response": str}
    if not isinstance(found, dict) or not isinstance(found.get("question"), str):
        raise ValueError(f'{where}: must be an object with a "question"')
    for name, value in found.items():
        if name not in known or not isinstance(value, known[name]):
            raise ValueError(
                f"{where}: {name!r} must be one of question, images (a list), response"
            )
    images = [folder / image for image in found.get("images", ())]
    return Sample(found["question"], images, found.get("response", ""))


def inputs_of(
    checkpoint: Checkpoint, samples: Sequence[Sample], step: Callable[[], None]
) -> list[dict[str, Tensor]]:
    """For each text layer, rows f32 [rows, k] of what READERS read, over all samples.

    The model runs in transformers; `step` is called after each sample.
    """
    model = _load(checkpoint)
    layers = model.model.language_model.layers
    share = max(1, ROWS // len(samples))
    kept: list[dict[str, list[Tensor]]] = [{name: [] for name in READERS} for _ in layers]

    def keep(into: list[Tensor]) -> Callable[..., None]:
        def hook(module: Any, inputs: tuple[Tensor, ...]) -> None:
            rows = inputs[0].reshape(-1, inputs[0].shape[-1])
            chosen = torch.linspace(0, len(rows) - 1, min(share, len(rows))).long()
            into.append(rows[chosen].float())

        return hook

    for layer, rows in zip(layers, kept, strict=True):
        for name in READERS:
            layer.get_submodule(name).register_forward_pre_hook(keep(rows[name]))
    processor, prompts = Processor(checkpoint), load_prompts(checkpoint)
    for sample in samples:
        request = Request(question=sample.question, images=sample.images)
        messages, sources = of_request(request, prompts)
        read = processor.encode(messages, [load_picture(source) for source in sources])
        _forward(model, read, processor.tokens.encode(sample.response), processor.image_token)
        step()
    return [{name: torch.cat(rows) for name, rows in layer.items()} for layer in kept]


def _load(checkpoint: Checkpoint) -> Any:
    from transformers import AutoModelForImageTextToText
    from transformers.utils import logging

    logging.disable_progress_bar()  # there is one of our own
    try:  # without the False, transformers asks on a terminal whether to run a checkpoint's code
        model = AutoModelForImageTextToText.from_pretrained(
            checkpoint.folder, dtype=torch.float32, local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, ImportError) as error:
        line = " ".join(str(error).split())
        raise ValueError(f"model {checkpoint.name}: transformers cannot run it: {line}") from None
    return model.eval()


def _forward(model: Any, read: ModelInput, response: list[int], image_token: int) -> None:
    ids = torch.tensor([(read.ids + response)[:LONGEST]])
    given: dict[str, Any] = {}
    if read.pixels.patches is not None:
        given = {
            "pixel_values": torch.from_numpy(read.pixels.patches),
            "image_grid_thw": torch.tensor(read.pixels.grid),
            "mm_token_type_ids": (ids == image_token).int(),
        }
    with torch.no_grad():
        model.model(input_ids=ids, use_cache=False, **given)
