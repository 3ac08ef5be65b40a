"""dream-r demo: the built-in pair reasons about drawn problems; then it is measured."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING

from dream_r.config import Request
from dream_r.engine import Engine
from dream_r.report import COLUMNS, NOTE, Arm, is_right, rows, threads_of
from dream_r.result import Result
from dream_r.timeline import bars, write_svg, write_trace

if TYPE_CHECKING:
    from dream_r.cli.show import Show
    from dream_r.pocket.problems import Problem

SHOWN = (1, 2, 3)  # levels of the problems that are streamed
MEASURED = 20.0  # seconds that the comparison may take
THINKING, ANSWER = 512, 64  # tokens


def run(arguments: argparse.Namespace) -> int:
    from dream_r.cli.show import Show

    if arguments.problems < 1:
        raise ValueError(f"--problems must be at least 1, not {arguments.problems}")
    show, out = Show(), Path(arguments.out).expanduser()
    models = {"target": arguments.target, "draft": arguments.draft}
    # One request at a time, and no prompt found in the cache: the comparison repeats problems.
    with Engine(**models, method="fpsr", max_requests=1, prefix_cache=False, trace=True) as fpsr:
        out.mkdir(parents=True, exist_ok=True)
        show.line(
            "A small draft proposes steps, a large target judges each (rho: its confidence) "
            "and rewrites what it rejects.",
            "dim",
        )
        problems = _problems(arguments.seed, max(arguments.problems, len(SHOWN)))
        told = [
            _tell(show, fpsr, problem, number, out)
            for number, problem in enumerate(problems[: len(SHOWN)], 1)
        ]
        drawn = max(range(len(told)), key=lambda i: told[i].metrics.verified)
        made = bars(fpsr.trace(), [told[drawn]])
        write_svg(
            out / "timeline.svg",
            made,
            f"fpsr, window {fpsr.config.window}: {problems[drawn].question}",
        )
        write_trace(out / "timeline.json", made)
        with Engine(arguments.target, method="ar", max_requests=1, prefix_cache=False) as ar:
            arms = _compare(show, ar, fpsr, problems[: arguments.problems])
    _table(show, *arms)
    show.line(
        f"\nIn {out}/: the pictures, timeline.svg (the lanes of problem {drawn + 1}), "
        "timeline.json (open it at ui.perfetto.dev)"
    )
    return 0


def _problems(seed: int, count: int) -> list[Problem]:
    """Problems that the pair was not trained on, levels in turn."""
    from dream_r.pocket.problems import problem

    return [problem(1000 * seed + i, SHOWN[i % len(SHOWN)], split="held-out") for i in range(count)]


def request_of(problem: Problem) -> Request:
    """A problem of the pocket world as a request."""
    return Request(
        question=problem.question,
        images=[problem.image],
        thinking_budget=THINKING,
        max_tokens=ANSWER,
    )


def _tell(show: Show, engine: Engine, problem: Problem, number: int, out: Path) -> Result:
    """Draw one problem and stream its reasoning."""
    path = out / f"problem{number}.png"
    problem.image.save(path)
    show.line()
    show.line(f"Problem {number}: {problem.question}   [{path}]", "bold")
    show.picture(problem.image)
    stream = engine.submit(request_of(problem))
    for event in stream:
        show.event(event)
    assert stream.result is not None
    if is_right(stream.result.answer, problem.answer):
        show.line(f"{stream.result.answer} is right", "bold green")
    else:
        show.line(
            f"{stream.result.answer or 'no answer'} is wrong, it is {problem.answer}", "bold red"
        )
    return stream.result


def _compare(show: Show, ar: Engine, fpsr: Engine, problems: list[Problem]) -> tuple[Arm, Arm]:
    """Both methods on the same problems, taking turns at going first."""
    from rich.progress import Progress

    pairs = [
        (Arm("target alone (ar)", threads_of(ar)), ar),
        (Arm("speculative (fpsr)", threads_of(fpsr)), fpsr),
    ]
    for _, engine in pairs:
        engine.generate_many([request_of(problems[0])])  # warm-up
    show.line()
    begin = time.perf_counter()
    # Redrawn between problems only: its own thread would take time from what is measured.
    with Progress(console=show.console, transient=True, auto_refresh=False) as progress:
        task = progress.add_task("measuring", total=len(problems))
        for i, problem in enumerate(problems):
            if i >= 2 and time.perf_counter() - begin > MEASURED:
                break
            for arm, engine in pairs if i % 2 else reversed(pairs):
                arm.ask(engine, request_of(problem), problem.answer)
            progress.update(task, advance=1, refresh=True)
    return pairs[0][0], pairs[1][0]


def _table(show: Show, base: Arm, arm: Arm) -> None:
    from rich.table import Table

    show.line(
        f"The same {len(base.results)} problems, one request at a time, both on the CPU:", "bold"
    )
    texts = rows(base, [arm])
    if show.console.width < 110:  # too narrow for a row each: a column each
        for name, *values in zip(COLUMNS, *texts, strict=True):
            show.line(f"{name:>12}  {values[0]:>22}  {values[1]:>22}")
    else:
        table = Table(box=None, pad_edge=False)
        for i, name in enumerate(COLUMNS):
            table.add_column(name, justify="left" if i < 2 else "right")
        for text in texts:
            table.add_row(*text)
        show.console.print(table)
    show.line(NOTE, "dim")
