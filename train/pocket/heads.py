"""Training-only heads: a ladder of small questions over the layers, thrown away after training.

Each answers something that the next rung needs: what a cell shows, what stands where the text
just pointed, whether a word is wrong, whether the step is.
"""

import torch
import torch.nn.functional as F
from dream_r.pocket.words import COLOURS, DIGITS, SHAPES
from torch import Tensor, nn

from train.pocket.shapes import Shape

COLOUR_CLASSES = (*COLOURS, "empty")
SHAPE_CLASSES = (*SHAPES, *DIGITS, "empty")
SIZES = {
    "colour": len(COLOUR_CLASSES),
    "shape": len(SHAPE_CLASSES),
    "row": 6,
    "column": 6,
    "wrong": 2,
    "step": 2,
    "next": 6,
    "sign": 3,
}


def rungs(layers: int) -> dict[str, tuple[int, ...]]:
    """Which layers' outputs each kind of head reads (0: before the first layer)."""
    if layers >= 6:
        return {
            "cell": (0, 1, 2),
            "at": (1, 2),
            "see": (3, 4),
            "wrong": (4, 5),
            "step": (5, 6),
            "exit": (4, 5),
            "next": (3, 4),
            "sign": (3, 4),
        }
    return {
        "cell": (0, 1),
        "at": (1,),
        "see": (2,),
        "wrong": (),
        "step": (),
        "exit": (2,),
        "next": (),
        "sign": (),
    }


class Heads(nn.Module):
    def __init__(self, s: Shape) -> None:
        super().__init__()
        self.rungs = rungs(s.layers)
        kinds = {
            "cell": ("colour", "shape", "row", "column"),
            "at": ("row", "column"),
            "see": ("colour", "shape"),
            "wrong": ("wrong",),
            "step": ("step",),
            "next": ("next",),
            "sign": ("sign",),
        }
        self.at = nn.ModuleDict(
            {
                f"{kind}_{what}_{i}": nn.Linear(s.hidden, SIZES[what])
                for kind, whats in kinds.items()
                for what in whats
                for i in self.rungs[kind]
            }
        )

    def forward(self, kind: str, what: str, layer: int, state: Tensor) -> Tensor:
        return self.at[f"{kind}_{what}_{layer}"](F.rms_norm(state, state.shape[-1:]))


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean over the labels that are not -100; 0 if there are none."""
    if not bool((labels >= 0).any()):
        return logits.sum() * 0
    return F.cross_entropy(logits.flatten(0, -2).float(), labels.flatten(), ignore_index=-100)


def accuracy(logits: Tensor, labels: Tensor) -> float:
    keep = labels >= 0
    return float((logits.argmax(-1) == labels)[keep].float().mean()) if keep.any() else 1.0


def cell_losses(heads: Heads, states: list[Tensor], batch, report: dict) -> Tensor:
    """What each visual token shows and where it stands."""
    end = batch.image_at + batch.cells["row"].shape[1]
    total = torch.zeros(())
    for i in heads.rungs["cell"]:
        for what, labels in batch.cells.items():
            logits = heads("cell", what, i, states[i][:, batch.image_at : end])
            total = total + cross_entropy(logits, labels)
            report[f"{what}{i}"] = accuracy(logits, labels)
    return total / len(heads.rungs["cell"])


def text_losses(heads: Heads, states: list[Tensor], batch, report: dict) -> Tensor:
    """Which cell is spoken of, what it really shows, wrong words, wrong steps, what is added next.

    Labels are [B, S] with -100 for no question.

    Nearly all words are right, so the wrong ones, where the answer is no mere copy of what was
    said, get half of the weight.
    """
    total = torch.zeros(())
    for kind, labels in (
        ("at", {"row": batch.at_row, "column": batch.at_column}),
        ("see", {"colour": batch.see_colour, "shape": batch.see_shape}),
        ("wrong", {"wrong": batch.wrong}),
        ("step", {"step": batch.step}),
        ("next", {"next": batch.next}),
        ("sign", {"sign": batch.sign}),
    ):
        for i in heads.rungs[kind]:
            for what, label in labels.items():
                keep = label >= 0
                logits, label_kept = heads(kind, what, i, states[i][keep]), label[keep]
                rare = batch.wrong[keep] == 1
                loss = cross_entropy(logits, label_kept)
                if kind in ("see", "wrong"):
                    loss = 0.5 * loss + 0.5 * cross_entropy(logits[rare], label_kept[rare])
                    report[f"{kind}.{what}{i}.rare"] = accuracy(logits[rare], label_kept[rare])
                report[f"{kind}.{what}{i}"] = accuracy(logits, label_kept)
                total = total + loss
    return total
