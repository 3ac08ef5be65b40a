"""Comparing methods on the same problems: a speed-up never stands without its factors."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from dream_r import machine
from dream_r.result import Result, ceiling

if TYPE_CHECKING:
    from dream_r.config import Request
    from dream_r.engine import Engine

Z95 = 1.959964  # two-sided 95 % of the normal distribution


@dataclass
class Arm:
    """One method on every problem, in the same order as the other arms."""

    name: str
    threads: str  # where it runs, as the reader should see it, e.g. "2 + 1 on 2 cores"
    seconds: list[float] = field(default_factory=list)
    right: list[bool] = field(default_factory=list)
    results: list[Result] = field(default_factory=list)

    def add(self, result: Result, right: bool, seconds: float) -> None:
        self.results.append(result)
        self.right.append(right)
        self.seconds.append(seconds)

    def ask(self, engine: Engine, request: Request, gold: str) -> None:
        """Run one problem, timed from the question to the whole answer."""
        start = time.perf_counter()
        result = engine.generate_many([request])[0]
        self.add(result, is_right(result.answer, gold), time.perf_counter() - start)

    @property
    def tokens(self) -> int:
        """Tokens that were committed, reasoning and answer."""
        return sum(r.usage.completion_tokens for r in self.results)

    @property
    def acceptance(self) -> float | None:
        accepted = sum(r.metrics.accepted for r in self.results)
        judged = accepted + sum(r.metrics.rejected for r in self.results)
        return accepted / judged if judged else None


def is_right(answer: str, gold: str) -> bool:
    return answer.strip().lower() == gold.strip().lower()


def threads_of(engine: Engine) -> str:
    """The threads of an engine's lanes, or their devices, for the reader."""
    stats = engine.stats()
    alone = engine.config.method == "ar"
    lanes = ("target",) if alone else ("target", "draft")
    target = engine.config.device
    devices = (target,) if alone else (target, engine.config.draft_device or target)
    if any(device != "cpu" for device in devices):
        return " + ".join(devices)
    counts = " + ".join(str(stats.get(f"{lane}_threads", "?")) for lane in lanes)
    return f"{counts} on {machine.cores()} cores"


@dataclass(frozen=True)
class Factors:
    """One arm beside the base, over the same problems.

    `wall` and `tokens` are base/arm: above 1 the arm is faster, or wrote fewer tokens. `attained`
    is wall/ceiling. `difference` of accuracies is arm - base, paired, with its 95 % interval.
    """

    name: str
    threads: str
    problems: int
    seconds: float
    seconds_per_problem: float
    tokens_per_second: float
    accuracy: float
    wall: float
    wall_low: float
    wall_high: float
    tokens: float
    acceptance: float | None
    ceiling: float | None
    attained: float | None
    wasted_share: float  # of the tokens generated
    difference: float
    difference_low: float
    difference_high: float

    def to_dict(self) -> dict[str, Any]:
        """Values for JSON; an infinite ceiling is None."""
        return {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in asdict(self).items()
        }


def factors(base: Arm, arm: Arm) -> Factors:
    """The arm's figures beside the base's. Both must hold the same problems, at least one."""
    if len(base.results) != len(arm.results) or not arm.results:
        raise ValueError("arms are compared on the same problems, at least one")
    count = len(arm.results)
    seconds, base_seconds = sum(arm.seconds), sum(base.seconds)
    wall = base_seconds / seconds
    p = arm.acceptance
    limit = None if p is None else ceiling(p)
    wasted = sum(r.metrics.tokens_wasted for r in arm.results)
    made = sum(r.metrics.draft_tokens + r.metrics.target_tokens for r in arm.results)
    low, middle, high = paired_difference(base.right, arm.right)
    wall_low, wall_high = ratio_interval(base.seconds, arm.seconds)
    return Factors(
        name=arm.name,
        threads=arm.threads,
        problems=count,
        seconds=seconds,
        seconds_per_problem=seconds / count,
        tokens_per_second=arm.tokens / seconds,
        accuracy=sum(arm.right) / count,
        wall=wall,
        wall_low=wall_low,
        wall_high=wall_high,
        tokens=base.tokens / max(arm.tokens, 1),
        acceptance=p,
        ceiling=limit,
        attained=None if limit is None else wall / limit,
        wasted_share=wasted / made if made else 0,
        difference=middle,
        difference_low=low,
        difference_high=high,
    )


def paired_difference(base: Sequence[bool], arm: Sequence[bool]) -> tuple[float, float, float]:
    """Mean of arm - base over pairs between the ends of its 95 % interval.

    Agresti-Min: half a pair is added to each of the two kinds of disagreement, so that the
    interval has a width when the arms agree everywhere.
    """
    gained = sum(a and not b for a, b in zip(arm, base, strict=True))
    lost = sum(b and not a for a, b in zip(arm, base, strict=True))
    n, b, c = len(arm) + 2, gained + 0.5, lost + 0.5
    spread = Z95 * math.sqrt(b + c - (b - c) ** 2 / n) / n
    centre = (b - c) / n
    return max(-1.0, centre - spread), (gained - lost) / len(arm), min(1.0, centre + spread)


def ratio_interval(base: Sequence[float], arm: Sequence[float]) -> tuple[float, float]:
    """95 % interval of sum(base)/sum(arm) over pairs (delta method)."""
    n, ratio = len(arm), sum(base) / sum(arm)
    if n < 2:
        return ratio, ratio
    rest = [b - ratio * a for a, b in zip(arm, base, strict=True)]
    spread = Z95 * math.sqrt(sum(r * r for r in rest) / (n - 1) * n) / sum(arm)
    return ratio - spread, ratio + spread


COLUMNS = (
    "method",
    "threads",
    "right",
    "s/problem",
    "tokens/s",
    "wall clock",
    "token count",
    "acceptance",
    "ceiling",
    "attained",
    "wasted",
)


def rows(base: Arm, arms: Sequence[Arm]) -> list[list[str]]:
    """The comparison as text, one row an arm, the base first, under COLUMNS."""
    out = []
    for f in (factors(base, arm) for arm in (base, *arms)):
        out.append(
            [
                f.name,
                f.threads,
                f"{100 * f.accuracy:.1f} %",
                f"{f.seconds_per_problem:.3f}",
                f"{f.tokens_per_second:.0f}",
                f"{f.wall:.2f}x",
                f"{f.tokens:.2f}x",
                _number(f.acceptance),
                _number(f.ceiling, "x"),
                _share(f.attained),
                _share(f.wasted_share),
            ]
        )
    return out


NOTE = (
    "wall clock and token count: the first row's divided by this row's; acceptance p: accepted "
    "of the judged steps; ceiling: 1/(1-p), the most that acceptance allows when both write as "
    "many tokens; attained: wall clock / ceiling; wasted: share of generated tokens thrown "
    "away."
)


def _number(value: float | None, unit: str = "") -> str:
    if value is None:
        return "-"
    return f"{value:.2f}{unit}" if math.isfinite(value) else "unbounded"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.0f} %"
