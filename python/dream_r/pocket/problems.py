"""Problems of the pocket world, made from a seed, with gold steps and an oracle.

>>> p = problem(7, level=2)
>>> p.question, p.steps[0], p.answer
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from dream_r.pocket import draw
from dream_r.pocket.families import (
    FAMILIES,
    Family,
    Stated,
    noun,
    question,
    read_answer,
    script,
    write_step,
)
from dream_r.pocket.speaker import Speaker, Word
from dream_r.pocket.words import COLOURS, DIGITS, END_OF_THINKING, LARGEST, SHAPES

SPLITS = ("train", "validation", "held-out")
# level -> (rows, columns, number of predicates, families)
_TWO = ("sum", "difference", "compare", "digits")
LEVELS = {
    1: ((3, 3, 1, ("count", "most", "digits")),),
    2: ((3, 3, 2, _TWO),),
    3: ((3, 4, 2, _TWO),),
    4: ((4, 4, 2, _TWO), (3, 3, 3, ("sum",))),
    5: ((5, 5, 2, ("sum", "difference", "compare")),),  # never trained
}


@dataclass(frozen=True)
class Scene:
    """What a picture shows, and what is asked about it."""

    family: Family
    predicates: tuple[str, ...]
    cells: tuple[tuple[tuple[str, str] | None, ...], ...]

    @property
    def kinds(self) -> list[tuple]:
        return script(self.family, self.predicates, len(self.cells))


@dataclass(frozen=True)
class Problem:
    """A question about a picture; `steps` are the gold steps, each ending in a blank line."""

    question: str
    image: Image.Image
    answer: str
    steps: list[str]
    level: int
    family: str
    seed: int
    split: str
    noise: float
    scene: Scene = field(repr=False)


def _hash(*parts: object) -> int:
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:6], "big")


def _held(predicates: tuple[str, ...]) -> bool:
    """Whether a combination of predicates is kept for the held-out split (about 1 in 10)."""
    return len(predicates) > 1 and _hash("predicates", *sorted(predicates)) % 10 == 0


def _scene(rng: np.random.Generator, level: int, family: str | None, split: str) -> Scene:
    layouts = [x for x in LEVELS[level] if family is None or family in x[3]]
    if not layouts:
        raise ValueError(f"level {level} has no family {family!r}")
    rows, columns, asks, names = layouts[rng.integers(len(layouts))]
    kind = FAMILIES[family or names[rng.integers(len(names))]]
    while True:
        pool = COLOURS if kind.digits or rng.random() < 0.5 else SHAPES
        if not kind.same_kind and asks > 1 and rng.random() < 0.5:
            pool = COLOURS + SHAPES
        predicates = tuple(str(p) for p in rng.choice(pool, asks, replace=False))
        if not _held(predicates) or split == "held-out":
            break
    wanted = [p for p in predicates if p in COLOURS]
    shapes = [p for p in predicates if p in SHAPES]
    things = DIGITS if kind.digits else SHAPES

    def pick(pool: tuple[str, ...], boost: list[str]) -> str:
        if boost and rng.random() < 0.42:
            return boost[rng.integers(len(boost))]
        return pool[rng.integers(len(pool))]

    cells = tuple(
        tuple(
            None if rng.random() < 0.18 else (pick(COLOURS, wanted), pick(things, shapes))
            for _ in range(columns)
        )
        for _ in range(rows)
    )
    return Scene(kind, predicates, cells)


def _solve(scene: Scene) -> tuple[list[str], str]:
    steps: list[str] = []
    while (step := next_step(scene, steps)) is not None:
        steps.append(step)
    return steps, read_answer(scene.family, steps[-1])


def next_step(scene: Scene, steps: list[str], speaker: Speaker | None = None) -> str | None:
    """The right step after `steps` (right given what they state), None when it is time to end."""
    kinds = scene.kinds
    if len(steps) >= len(kinds):
        return None
    say = speaker or Speaker()
    write_step(say, scene, kinds[len(steps)], Stated(scene, kinds, steps))
    return say.text()


def oracle(problem: Problem, steps: list[str]) -> str:
    """The right next step after a prefix of steps: a step's text, or `</think>` at the end."""
    return next_step(problem.scene, steps) or END_OF_THINKING


def answer_text(answer: str) -> str:
    """What follows `</think>`."""
    return f"\n\nThe answer is \\boxed{{{answer}}}."


def problem(
    seed: int,
    level: int,
    family: str | None = None,
    split: str = "train",
    noise: float | None = None,
) -> Problem:
    """The problem of this seed; the three splits never share a random stream.

    `noise` in 0..1 sets how hard the picture is to see; by default the seed draws it.
    """
    if split not in SPLITS:
        raise ValueError(f"split must be one of {SPLITS}, not {split!r}")
    rng = np.random.default_rng([_hash("pocket", split, level, family, seed)])
    while True:
        scene = _scene(rng, level, family, split)
        steps, answer = _solve(scene)
        rows = Stated(scene, scene.kinds, steps)
        clear = scene.family.name != "most" or sorted(rows.rows(0))[-1] > sorted(rows.rows(0))[-2]
        if clear and sum(rows.totals()) <= LARGEST:
            break
    drawn = float(rng.random()) if noise is None else noise
    index = int(rng.integers(draw.PALETTES))
    if split != "held-out":
        while _hash("palette", index) % 4 == 0:
            index = int(rng.integers(draw.PALETTES))
    pixels = draw.draw(scene.cells, draw.palette(index), drawn, rng)
    text = question(scene.family, scene.predicates, int(rng.integers(2)))
    return Problem(
        text,
        Image.fromarray(pixels),
        answer,
        steps,
        level,
        scene.family.name,
        seed,
        split,
        drawn,
        scene,
    )


__all__ = [
    "FAMILIES",
    "LEVELS",
    "SPLITS",
    "Problem",
    "Scene",
    "Word",
    "answer_text",
    "next_step",
    "noun",
    "oracle",
    "problem",
]
