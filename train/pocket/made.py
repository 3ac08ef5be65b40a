"""Steps that real drafts make: the judge's last lessons.

The draft proposes a step, the oracle corrects it, and so on along a right trunk; what was wrong is
kept. Some problems are decoded greedily and some sampled, for variety.
"""

import json
from pathlib import Path

import torch
from dream_r.pocket.problems import oracle
from tqdm import tqdm

from train.pocket.data import encode
from train.pocket.decode import Decoder, ends, text_of
from train.pocket.evaluate import groups
from train.pocket.model import PocketModel


def propose(draft: PocketModel, problems: list, temperature: float, generator) -> tuple[list, int]:
    """Wrong steps of each problem as {steps before: [ids]}, and how many steps were proposed."""
    decoder = Decoder(draft, problems)
    wrong: list[dict[int, list]] = [{} for _ in problems]
    steps: list[list[str]] = [[] for _ in problems]
    active, count = [True] * len(problems), 0
    while any(active):
        mark = decoder.mark()
        wrote = decoder.write(active, ends(), 40, temperature, generator)
        right = [oracle(p, s) if a else "" for p, s, a in zip(problems, steps, active, strict=True)]
        missed = [bool(w) and text_of(w) != r for w, r in zip(wrote, right, strict=True)]
        decoder.back(mark, missed)
        if any(missed):
            decoder.push([list(encode(r)) if m else [] for r, m in zip(right, missed, strict=True)])
        for row, (ids, text) in enumerate(zip(wrote, right, strict=True)):
            if not ids:
                continue
            count += 1
            if missed[row]:
                wrong[row][len(steps[row])] = [ids]
            steps[row].append(text)
            active[row] = text != "</think>"
    return wrong, count


def collect(
    draft: PocketModel,
    levels: dict[int, int],
    out: Path,
    first: int,
    batch: int = 100,
    seed: int = 5,
) -> float:
    """Write problems with wrong draft steps as JSON lines; return the share of wrong steps.

    `levels`: problems of each level; temperatures 0, 0.7 and 1 take turns.
    """
    generator = torch.Generator().manual_seed(seed)
    wrong = total = 0
    with out.open("a") as file:
        for level, n in levels.items():
            turns = tqdm(groups(level, n, "train", batch, first=first), desc=f"steps {level}")
            for turn, problems in enumerate(turns):
                found, count = propose(draft, problems, (0.0, 0.7, 1.0)[turn % 3], generator)
                total += count
                wrong += sum(len(f) for f in found)
                for p, f in zip(problems, found, strict=True):
                    if f:
                        file.write(json.dumps({"level": level, "seed": p.seed, "made": f}) + "\n")
    return wrong / total
