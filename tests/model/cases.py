"""Prompts with images, and our engine run on them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from dream_r import _core

IMAGE, VIDEO, START, END = 300, 301, 302, 303
VOCAB = 307  # no multiple of the 16 rows of a packed panel

# What the prompts of a family show; each family has pictures of its own for these names.
NAMES = ("text", "one image", "two images", "larger")


@dataclass
class Prompt:
    ids: list[int]
    grids: list[tuple[int, int, int]]
    patches: np.ndarray
    reference: dict[str, Any] = field(
        default_factory=dict
    )  # the pictures as transformers reads them

    @property
    def types(self) -> list[int]:
        return [int(i == IMAGE) for i in self.ids]


def ids_of(counts: Sequence[int], rng: np.random.Generator, text: int) -> list[int]:
    """Some text, then the tokens of each image followed by some text."""
    words = lambda n: rng.integers(0, IMAGE, n).tolist()  # noqa: E731
    ids = words(text)
    for count in counts:
        ids += [START, *[IMAGE] * count, END, *words(5)]
    return ids


class Runner:
    """One sequence in our engine: a prompt and what follows it."""

    def __init__(self, model, p: Prompt, threads: int = 1):
        blocks = max(40, len(p.ids) // 16 + 4)
        self.session = _core.model.Session(model, blocks=blocks, threads=threads)
        self.prompt = p
        self.positions, self.delta, self.feature_rows = model.positions(p.ids, p.grids)
        self.features = self.session.encode_images(p.patches, p.grids) if p.grids else None

    def prefill(self, cuts: Sequence[int] = ()) -> np.ndarray:
        """Logits of the whole prompt, read in pieces that begin at the cuts."""
        edges = [0, *cuts, len(self.prompt.ids)]
        return np.concatenate([self.piece(a, b) for a, b in pairwise(edges)])

    def piece(self, begin: int, end: int) -> np.ndarray:
        return self.session.append(
            self.prompt.ids[begin:end],
            self.positions[begin:end],
            self.features,
            self.feature_rows[begin:end],
        )

    def decode(self, tokens: list[int]) -> np.ndarray:
        """Logits after each token, one forward a token."""
        return np.concatenate([self.session.append([t], [self.next()]) for t in tokens])

    def next(self, ahead: int = 0) -> list[int]:
        return [self.session.length + ahead + self.delta] * 3


def worst(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The largest difference, as a part of the reference's range."""
    assert ours.shape == theirs.shape
    return float(np.abs(ours - theirs).max() / (theirs.max() - theirs.min()))
