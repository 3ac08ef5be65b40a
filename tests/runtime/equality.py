"""Is speculation with nothing accepted the target alone, token for token?

With alpha = 1 every drafted step is rejected, so the committed trace must be the target's own,
whatever the window, the race, the threads, the lanes or the requests that share a forward. Run as

    python tests/runtime/equality.py --problems 2000 --cross 50

for the long form: a random design of all settings over the problems, then the full cross of them.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from random import Random

import dream_r
from dream_r.config import Request
from dream_r.pocket import problems

WINDOWS, RACES = (1, 2, 4, 6), ("first", "verdict")
MODES, VERIFY = ("auto", "hedged", "sequential", "off"), ("fused", "separate")
THREADS, BATCH, INLINE = (1, 2), (1, 7), (False, True)
DTYPES = ("bf16", "f32", "i16")
BUDGETS = (512, 100, 23)  # tokens of thinking: enough, cut late, cut in the second step


@dataclass(frozen=True)
class Setting:
    window: int = 4
    race: str = "first"
    mode: str = "auto"
    verify: str = "fused"
    threads: int = 2
    batch: int = 7
    inline: bool = False
    dtype: str = "bf16"

    def engine(self, target: str, draft: str, method: str, alpha: float) -> dream_r.Engine:
        return dream_r.Engine(
            target,
            draft,
            method=method,
            alpha=alpha,
            window=self.window,
            race=self.race,
            mode=self.mode,
            verify=self.verify,
            target_threads=self.threads,
            max_requests=self.batch,
            inline=self.inline,
            dtype=self.dtype,
        )


def cross(dtype: str) -> Iterator[Setting]:
    """Every combination of the settings (of the windows, the smallest and the default)."""
    for values in itertools.product((1, 4), RACES, MODES, VERIFY, THREADS, BATCH, INLINE):
        yield Setting(*values, dtype=dtype)


def draw(random: Random, dtype: str) -> Setting:
    """One combination at random."""
    return Setting(
        *(random.choice(axis) for axis in (WINDOWS, RACES, MODES, VERIFY, THREADS, BATCH, INLINE)),
        dtype=dtype,
    )


def requests(seeds: Sequence[int]) -> list[Request]:
    """Held-out problems of levels 1-4, the thinking budget hit in some."""
    made = []
    for seed in seeds:
        p = problems.problem(seed, 1 + seed % 4, split="held-out")
        made.append(
            Request(
                question=p.question,
                images=[p.image],
                seed=seed,
                max_tokens=24,
                thinking_budget=BUDGETS[seed % len(BUDGETS)],
                temperature=0.0,
            )
        )
    return made


def texts(engine: dream_r.Engine, wanted: Sequence[Request]) -> list[tuple[int, ...]]:
    """All tokens of each result: steps, then the answer's text."""
    results = engine.generate_many(wanted)
    return [(*(t for s in r.steps for t in s.tokens), hash(r.text)) for r in results]


def differences(
    target: str,
    draft: str,
    setting: Setting,
    wanted: Sequence[Request],
    expected: Sequence[tuple[int, ...]],
) -> list[int]:
    """Indices of the requests whose tokens are not those of the target alone."""
    with setting.engine(target, draft, "fpsr", 1.0) as engine:
        got = texts(engine, wanted)
    return [i for i, (a, b) in enumerate(zip(got, expected, strict=True)) if a != b]


def plain(target: str, draft: str, dtype: str, wanted: Sequence[Request]) -> list[tuple[int, ...]]:
    """The target alone, one request at a time."""
    setting = replace(Setting(dtype=dtype), batch=1)
    with setting.engine(target, draft, "ar", 0.7) as engine:
        return texts(engine, wanted)


def run(
    target: str,
    draft: str,
    count: int,
    crossed: int,
    dtype: str,
    per_setting: int = 40,
    report: bool = False,
) -> int:
    """Number of requests that differ, over the random design and the full cross."""
    random, wrong = Random(0), 0

    def compare(setting: Setting, seeds: Sequence[int], done: str) -> None:
        nonlocal wrong
        wanted = requests(seeds)
        bad = differences(target, draft, setting, wanted, [known[s] for s in seeds])
        wrong += len(bad)
        if bad:
            print(f"{setting}: problems {[seeds[i] for i in bad]} differ")
        if report:
            print(f"\r{done}, {wrong} differ", end="", file=sys.stderr, flush=True)

    seeds = range(max(count, crossed))
    known = dict(zip(seeds, plain(target, draft, dtype, requests(seeds)), strict=True))
    for start in range(0, count, per_setting):
        part = range(start, min(start + per_setting, count))
        compare(draw(random, dtype), part, f"{dtype}: {part.stop}/{count} of the random design")
    settings = list(cross(dtype)) if crossed else []
    for i, setting in enumerate(settings):
        compare(setting, range(crossed), f"{dtype}: {i + 1}/{len(settings)} of the cross")
    if report:
        print(file=sys.stderr)
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--problems", type=int, default=2000, help="of the random design (2000)")
    parser.add_argument("--cross", type=int, default=50, help="problems of the full cross (50)")
    parser.add_argument("--target", default="pocket")
    parser.add_argument("--draft", default="pocket-draft")
    parser.add_argument("--dtype", choices=DTYPES, nargs="*", default=DTYPES)
    given = parser.parse_args()
    wrong = sum(
        run(given.target, given.draft, given.problems, given.cross, dtype, report=True)
        for dtype in given.dtype
    )
    print(
        f"{given.problems} problems of a random design and {given.cross} of the full cross "
        f"({len(list(cross('bf16')))} settings), {' and '.join(given.dtype)}: {wrong} differ"
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
