"""Methods on the pocket world's held-out problems: accuracy and time, paired and interleaved.

Each arm has an engine of its own; every problem is given to all arms before the next one, in an
order that rotates, one request at a time, with no prompt found in the cache. Prints the comparison
and, with --json, writes it with every problem's figures.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dream_r import Engine, EngineConfig, Request
from dream_r.config import CHOICES
from dream_r.pocket.problems import problem
from dream_r.report import COLUMNS, NOTE, Arm, factors, rows, threads_of

EXAMPLES = """\
examples:
  python bench/pocket.py                                     1,000 problems, ar / specreason / fpsr
  python bench/pocket.py --problems 100 --levels 1 2 3
  python bench/pocket.py --arms ar fpsr:mode=hedged fpsr:mode=sequential fpsr:mode=auto
  python bench/pocket.py --arms ar fpsr fpsr:draft=runs/random/draft
An arm is a method, then any fields of EngineConfig; the first arm is the base of every ratio."""


def named_dtype(asked: str) -> str:
    """What `auto` stands for on this machine's CPU."""
    from dream_r import _core

    return f"auto = {_core.fastest_dtype('cpu')}" if asked == "auto" else asked


def arm_config(text: str, models: dict[str, str], dtype: str) -> EngineConfig:
    """The engine of an arm such as "fpsr:mode=hedged,window=1". ValueError for unknown fields."""
    method, _, rest = text.partition(":")
    given: dict[str, Any] = {**models, "dtype": dtype, "method": method}
    defaults = {f.name: f.default for f in dataclasses.fields(EngineConfig)}
    for setting in filter(None, rest.split(",")):
        name, equals, value = setting.partition("=")
        if not equals or name not in defaults:
            raise ValueError(f"arm {text!r}: {setting!r} is not field=value of EngineConfig")
        kind = type(defaults[name])
        given[name] = (
            value == "True" if kind is bool else kind(value) if kind in (int, float) else value
        )
    return EngineConfig(**{"max_requests": 1, "prefix_cache": False, **given})


def measure(
    engines: Sequence[tuple[Arm, Engine]],
    count: int,
    levels: Sequence[int],
    split: str,
    seed: int,
    limits: dict[str, int],
) -> None:
    """Fill every arm with the same problems."""
    from rich.console import Console
    from rich.progress import Progress

    def made(i: int) -> tuple[Request, str]:
        p = problem(seed + i, levels[i % len(levels)], split=split)
        return Request(question=p.question, images=[p.image], **limits), p.answer

    for _, engine in engines:
        engine.generate_many([made(count)[0]])  # warm-up
    # Redrawn between problems only: its own thread would take time from what is measured.
    with Progress(console=Console(stderr=True), auto_refresh=False) as progress:
        task = progress.add_task("problems", total=count)
        for i in range(count):
            request, gold = made(i)
            turn = i % len(engines)
            for arm, engine in (*engines[turn:], *engines[:turn]):
                arm.ask(engine, request, gold)
            progress.update(task, advance=1, refresh=True)


def details(base: Arm, arms: Sequence[Arm]) -> list[tuple[str, ...]]:
    """What the first table leaves out: intervals, and how parallel each arm really was."""
    out = [
        (
            "method",
            "wall clock, 95 %",
            "accuracy difference, 95 %",
            "2+ lanes busy",
            "drafted ahead",
            "verified ahead",
            "hedged/seq/off",
        )
    ]
    for arm in arms:
        f, metrics = factors(base, arm), [r.metrics for r in arm.results]
        busy = sum(m.overlap_seconds for m in metrics) / sum(arm.seconds)
        modes = [
            sum(m.mode_steps.get(k, 0) for m in metrics) for k in ("hedged", "sequential", "off")
        ]
        ahead = [
            sum(getattr(m, f"ahead_{k}") for m in metrics)
            / max(1, sum(getattr(m, k) for m in metrics))
            for k in ("drafted", "verified")
        ]
        out.append(
            (
                arm.name,
                f"{f.wall:.2f}x [{f.wall_low:.2f}, {f.wall_high:.2f}]",
                f"{100 * f.difference:+.2f} [{100 * f.difference_low:+.2f}, "
                f"{100 * f.difference_high:+.2f}] points",
                f"{100 * busy:.0f} %",
                f"{100 * ahead[0]:.0f} %",
                f"{100 * ahead[1]:.0f} %",
                "/".join(map(str, modes)),
            )
        )
    return out


def table(lines: Sequence[Sequence[str]]) -> None:
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    for line in lines:
        print(
            "  ".join(
                text.ljust(w) if i == 0 else text.rjust(w)
                for i, (text, w) in enumerate(zip(line, widths, strict=True))
            )
        )


def to_json(arms: Sequence[Arm], settings: dict[str, Any]) -> dict[str, Any]:
    return {
        "settings": settings,
        "arms": [factors(arms[0], arm).to_dict() for arm in arms],
        "problems": [
            {
                arm.name: {
                    "seconds": arm.seconds[i],
                    "right": arm.right[i],
                    "answer": arm.results[i].answer,
                    "tokens": arm.results[i].usage.completion_tokens,
                    "accepted": arm.results[i].metrics.accepted,
                    "rejected": arm.results[i].metrics.rejected,
                }
                for arm in arms
            }
            for i in range(len(arms[0].results))
        ],
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--arms", nargs="+", default=["ar", "specreason", "fpsr"])
    parser.add_argument("--problems", type=int, default=1000)
    parser.add_argument("--levels", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--split", default="held-out")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first problem")
    parser.add_argument("--target", default="pocket")
    parser.add_argument("--draft", default="pocket-draft")
    parser.add_argument("--dtype", default="auto", choices=CHOICES["dtype"])
    parser.add_argument("--thinking-budget", type=int, default=512)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures")
    options = parser.parse_args()
    limits = {"thinking_budget": options.thinking_budget, "max_tokens": options.max_tokens}
    try:
        models = {"target": options.target, "draft": options.draft}
        configs = [arm_config(text, models, options.dtype) for text in options.arms]
        with contextlib.ExitStack() as stack:
            engines = []
            for text, config in zip(options.arms, configs, strict=True):
                engine = stack.enter_context(Engine.from_config(config))
                engines.append((Arm(text, threads_of(engine)), engine))
            measure(engines, options.problems, options.levels, options.split, options.seed, limits)
    except (ValueError, RuntimeError, MemoryError) as error:
        print(f"pocket.py: error: {error}", file=sys.stderr)
        return 2
    arms = [arm for arm, _ in engines]
    print(
        f"{options.problems} {options.split} problems of levels {options.levels}, "
        f"{named_dtype(options.dtype)}, one request at a time"
    )
    table([COLUMNS, *rows(arms[0], arms[1:])])
    print()
    table(details(arms[0], arms[1:]))
    print(f"\n{NOTE}")
    if options.json:
        settings = {k: str(v) if isinstance(v, Path) else v for k, v in vars(options).items()}
        options.json.write_text(json.dumps(to_json(arms, settings), indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
