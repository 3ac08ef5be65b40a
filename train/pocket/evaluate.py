"""Measure the pocket pair in plain PyTorch.

    python -m train.pocket.evaluate                 the shipped pair, 1,000 problems a level
    python -m train.pocket.evaluate --n 100 --levels 1 2 --target RUN/last.pt

Solving alone (greedy), judging of draft-made steps, and sequential speculative reasoning: the draft
writes a step, the target judges it, and writes its own where rho <= alpha.
"""

import argparse
import json
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from dream_r import pocket
from dream_r.pocket.problems import LEVELS, Problem, oracle, problem
from dream_r.pocket.words import END_OF_THINKING
from safetensors.torch import load_file
from tqdm import tqdm

from train.pocket.data import encode
from train.pocket.decode import Decoder, boxed, ends, text_of
from train.pocket.model import PocketModel
from train.pocket.shapes import SHAPES

MAX_STEPS = 32


@dataclass
class Trace:
    """How one problem was worked on; one entry a step in the lists."""

    problem: Problem
    steps: list[str] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    judged: list[tuple[float, bool, str]] = field(default_factory=list)  # rho, right, step
    accepted: int = 0
    rejected: int = 0
    thinking: bool = True
    answer: str | None = None

    @property
    def solved(self) -> bool:
        return self.answer == self.problem.answer

    def commit(self, ids: list[int]) -> None:
        text = text_of(ids)
        self.steps.append(text)
        self.lengths.append(len(ids))
        over = END_OF_THINKING in text or "<|im_end|>" in text
        self.thinking = not over and len(self.steps) < MAX_STEPS and sum(self.lengths) < 800


def load(role: str, path: Path | None = None) -> PocketModel:
    """A model from a run's checkpoint (.pt), a model folder, or the package."""
    model = PocketModel(SHAPES[role])
    path = path or pocket.path(role)
    if path.suffix == ".pt":
        weights = torch.load(path, weights_only=False)["model"]
    else:
        weights = {
            k: v.float()
            for k, v in load_file(path / "model.safetensors").items()
            if k != "lm_head.weight"
        }
    model.load_state_dict(weights)
    return model.eval()


def groups(
    level: int, n: int, split: str, size: int, family: str | None = None, first: int = 0
) -> list[list[Problem]]:
    """n problems in batches of one picture size."""
    by_size: dict[tuple, list[Problem]] = {}
    for seed in range(first, first + n):
        p = problem(seed, level, family, split)
        by_size.setdefault(p.image.size, []).append(p)
    return [same[i : i + size] for same in by_size.values() for i in range(0, len(same), size)]


def finish(decoder: Decoder, traces: list[Trace]) -> None:
    """Let the answers be written."""
    wrote = decoder.write([True] * len(traces), frozenset(encode("<|im_end|>")), limit=24)
    for trace, ids in zip(traces, wrote, strict=True):
        trace.answer = boxed(text_of(ids))


def alone(model: PocketModel, problems: list[Problem]) -> list[Trace]:
    """Greedy solving by one model."""
    decoder, traces = Decoder(model, problems), [Trace(p) for p in problems]
    while any(t.thinking for t in traces):
        for trace, ids in zip(
            traces, decoder.write([t.thinking for t in traces], ends()), strict=True
        ):
            if ids:
                trace.commit(ids)
    finish(decoder, traces)
    return traces


def speculate(
    target: PocketModel, draft: PocketModel, problems: list[Problem], alpha: float
) -> list[Trace]:
    """Sequential speculative reasoning, greedy."""
    big, small = Decoder(target, problems), Decoder(draft, problems)
    traces = [Trace(p) for p in problems]
    while any(t.thinking for t in traces):
        before, draft_before = big.mark(), small.mark()
        steps = small.write([t.thinking for t in traces], ends())
        refused = []
        for trace, ids, verdict in zip(traces, steps, big.judge(steps), strict=True):
            if ids:
                text = text_of(ids)
                right = text == oracle(trace.problem, trace.steps)
                trace.judged.append((verdict.rho, right, text))
            refused.append(bool(ids) and not verdict.rho > alpha)
        big.back(before, refused)
        small.back(draft_before, refused)
        own = big.write(refused, ends())
        if any(refused):
            small.push(own)
        for trace, ids, mine in zip(traces, steps, own, strict=True):
            if ids:
                trace.accepted += not mine
                trace.rejected += bool(mine)
                trace.commit(mine or ids)
    finish(big, traces)
    return traces


def auc(scores: np.ndarray, labels: np.ndarray) -> float | None:
    """Chance that a right step scores above a wrong one; ties count half."""
    good, bad = np.sort(scores[labels]), np.sort(scores[~labels])
    if not len(good) or not len(bad):
        return None
    below = np.searchsorted(bad, good, "left") + np.searchsorted(bad, good, "right")
    return float(below.sum() / 2 / len(good) / len(bad))


def summary(target: list[Trace], draft: list[Trace], both: list[Trace], alpha: float) -> dict:
    """The figures of one level (or of several together)."""
    rho = np.array([j[0] for t in both for j in t.judged])
    right = np.array([j[1] for t in both for j in t.judged], bool)
    over = rho > alpha
    thinking = [
        [n for n, s in zip(t.lengths, t.steps, strict=True) if s != END_OF_THINKING] for t in target
    ]
    bins = np.clip((rho * 10).astype(int), 0, 9)
    return {
        "n": len(target),
        "target_solves": float(np.mean([t.solved for t in target])),
        "draft_solves": float(np.mean([t.solved for t in draft])),
        "speculative_solves": float(np.mean([t.solved for t in both])),
        "acceptance": sum(t.accepted for t in both) / sum(t.accepted + t.rejected for t in both),
        "judge_auc": auc(rho, right),
        "judge_precision": float(right[over].mean()) if over.any() else None,
        "judge_recall": float(over[right].mean()) if right.any() else None,
        "false_accepts": float(over[~right].mean()) if (~right).any() else None,
        "draft_steps_right": float(right.mean()),
        "decisive": float(((rho < 0.2) | (rho > 0.8)).mean()),
        "steps_per_problem": float(np.mean([len(x) for x in thinking])),
        "tokens_per_problem": float(np.mean([sum(t.lengths) for t in target])),
        "speculative_steps": float(np.mean([len(t.steps) for t in both])),
        "speculative_tokens": float(np.mean([sum(t.lengths) for t in both])),
        "step_length": float(np.mean([n for x in thinking for n in x])),
        "calibration": [
            [int((bins == b).sum()), float(right[bins == b].mean()) if (bins == b).any() else None]
            for b in range(10)
        ],
    }


def mistakes(both: list[Trace], limit: int = 400) -> dict[str, float]:
    """What kind the draft's wrong steps are of, as shares: the first word that differs decides."""
    from train.pocket.mistakes import kind_of

    kinds: dict[str, int] = {}
    for trace in both:
        for k, (_, right, text) in enumerate(trace.judged):
            if not right and limit:
                kind = kind_of(text, oracle(trace.problem, trace.steps[:k]))
                kinds[kind] = kinds.get(kind, 0) + 1
                limit -= 1
    total = sum(kinds.values()) or 1
    return {k: v / total for k, v in sorted(kinds.items(), key=lambda x: -x[1])}


def evaluate(
    target: PocketModel,
    draft: PocketModel,
    levels: list[int],
    n: int,
    split: str,
    alpha: float,
    batch: int = 100,
) -> dict:
    figures, kept = {}, {}
    for level in levels:
        runs: tuple[list[Trace], ...] = ([], [], [])
        for some in tqdm(groups(level, n, split, batch), desc=f"level {level}", mininterval=5):
            for traces, fresh in zip(
                runs,
                (alone(target, some), alone(draft, some), speculate(target, draft, some, alpha)),
                strict=True,
            ):
                traces.extend(fresh)
        kept[level] = runs
        figures[f"level {level}"] = summary(*runs, alpha) | {"draft_mistakes": mistakes(runs[2])}
        families = sorted({t.problem.family for t in runs[0]})
        figures[f"level {level}"]["target_by_family"] = {
            f: float(np.mean([t.solved for t in runs[0] if t.problem.family == f]))
            for f in families
        }
    if 1 in kept and 2 in kept:
        together = tuple(a + b for a, b in zip(kept[1], kept[2], strict=True))
        figures["levels 1-2"] = summary(*together, alpha)
    return figures


def table(figures: dict) -> str:
    """The figures for a reader: a line each, a column for every level."""
    names = [
        k
        for k in next(iter(figures.values()))
        if k not in ("calibration", "draft_mistakes", "target_by_family")
    ]
    lines = [" " * 20 + "".join(f"{k:>12}" for k in figures)]
    for name in names:
        cells = [f[name] for f in figures.values()]
        lines.append(
            f"{name:<20}"
            + "".join(
                f"{'-' if c is None else c if isinstance(c, int) else f'{c:.4g}':>12}"
                for c in cells
            )
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--target", type=Path, help="checkpoint or model folder (default: shipped)")
    parser.add_argument("--draft", type=Path, help="checkpoint or model folder (default: shipped)")
    parser.add_argument("--levels", type=int, nargs="+", default=sorted(LEVELS))
    parser.add_argument("--n", type=int, default=1000, help="problems a level")
    parser.add_argument("--split", default="held-out", help="train, validation or held-out")
    parser.add_argument("--alpha", type=float, default=0.7, help="a step passes if rho > alpha")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    begun = time.time()
    target, draft = load("target", args.target), load("draft", args.draft)
    figures = evaluate(target, draft, args.levels, args.n, args.split, args.alpha)
    print(table(figures))
    sizes = {
        role: sum(p.numel() for p in m.parameters())
        for role, m in (("target", target), ("draft", draft))
    }
    print(f"parameters: {sizes['target']:,} and {sizes['draft']:,}; {time.time() - begun:.0f} s")
    if args.json:
        args.json.write_text(
            json.dumps(
                {"split": args.split, "alpha": args.alpha, "parameters": sizes, "figures": figures},
                indent=1,
            )
        )


if __name__ == "__main__":
    main()
