"""The recipes of the shipped pair, and the stages that lead to it.

Stages: `target` learns to see, solve and judge; `draft` learns to see and solve, and stops early;
`made` collects the draft's wrong steps; `judge` goes on with the target on those too; `polish`
mends what was weak then, at a gentle rate; `doubt` shows its judge steps that are nearly right;
`export` writes the model folders. Each can be stopped at any time and goes on where it was.
"""

from dataclasses import replace
from math import ceil
from pathlib import Path

from dream_r import pocket

from train.pocket.data import Mix
from train.pocket.evaluate import load
from train.pocket.export import export
from train.pocket.loop import Plan, Run
from train.pocket.made import collect

TARGET = Plan(
    "target",
    perceive=220,
    steps=1100,
    decay_from=1100,
    batch_tokens=6500,
    judge_from=430,
    levels=((220, {1: 1, 2: 2, 3: 1}), (430, {1: 1, 2: 1}), (1100, {1: 1.5, 2: 2, 3: 1.5, 4: 0.7})),
)
# The last stage goes on from there. What is nearly learned counts little in a sum of losses, so
# the next word and the picture get more weight than the hints that led to them.
JUDGE = replace(
    TARGET,
    steps=1660,
    lr=2.4e-3,
    mix=Mix(spoil=0.2, stray=0.5),
    words=4.0,
    cells=0.5,
    hints=0.15,
    levels=((9999, {1: 1.5, 2: 2.5, 3: 1.2, 4: 0.3}),),
)
# Sums and conclusions are few among the words, and the judge's false accepts cost answers: both
# get more weight, at a gentle rate, with a fresh optimiser.
POLISH = Plan(
    "target",
    perceive=0,
    steps=640,
    decay_from=400,
    batch_tokens=6500,
    lr=7e-4,
    warmup=60,
    mix=Mix(spoil=0.2, stray=0.4, drills=5),
    words=3.0,
    cells=0.3,
    hints=0.2,
    settle=80,
    haste=5.0,
    deduced=4.0,
    negative=3.0,
    families=("count", "most", "sum", "difference", *2 * ("digits", "compare"), "compare"),
    made_share=0.4,
    seed=3,
    snapshots=50,
    levels=((9999, {1: 1, 2: 2, 3: 2.5, 4: 0.7}),),
)
# Now that it solves, it need only not be talked into what is like the right step.
DOUBT = replace(
    POLISH,
    steps=740,
    decay_from=640,
    lr=3e-4,
    mix=Mix(spoil=0.2, stray=0.4, drills=4, confused=0.7),
    hints=0.3,
    deduced=5.0,
    judging=1.5,
    negative=4.0,
)
DRAFT = Plan(
    "draft",
    perceive=250,
    steps=1000,
    decay_from=1000,
    batch_tokens=3000,
    lr=4e-3,
    seed=2,
    mix=Mix(spoil=0.15, judge=False),
    snapshots=50,
    levels=((250, {1: 1, 2: 2, 3: 1}), (500, {1: 1, 2: 1}), (1000, {1: 1, 2: 2, 3: 1})),
)
PROBLEMS = {1: 800, 2: 1000, 3: 600, 4: 300}  # that the draft works on for the judge
STAGES = ("target", "draft", "made", "judge", "polish", "doubt", "export")


def scaled(plan: Plan, scale: float) -> Plan:
    """The same stages with fewer steps on fewer problems."""

    def less(n: int, least: int = 1) -> int:
        return n and max(least, ceil(n * scale))

    return replace(
        plan,
        perceive=less(plan.perceive),
        steps=less(plan.steps),
        decay_from=less(plan.decay_from),
        judge_from=less(plan.judge_from),
        settle=less(plan.settle),
        snapshots=less(plan.snapshots),
        batch_tokens=less(plan.batch_tokens, 800),
        pictures=less(plan.pictures, 8),
        levels=tuple((less(until), weights) for until, weights in plan.levels),
    )


def resume(plan: Plan, folder: Path, after: Path | None = None) -> Run:
    """The run in this folder where it stopped, or one that goes on where `after` ended."""
    run = Run(plan, folder)
    if (folder / "last.pt").exists():
        run.load(folder / "last.pt")
    elif after:
        run.load(after / "last.pt")
    return run


def polish(plan: Plan, folder: Path) -> None:
    """A fresh start from the judge stage's weights, or from the shipped ones where it never ran."""
    run, judge = Run(plan, folder / "polish"), folder / "judge" / "last.pt"
    if (run.folder / "last.pt").exists():
        run.load(run.folder / "last.pt")
    else:
        run.begin(judge if judge.exists() else pocket.path("target"))
    run.train()


def collect_made(folder: Path, made: Path, scale: float) -> None:
    part = made.with_suffix(".part")
    part.unlink(missing_ok=True)
    counts = {level: max(3, round(n * scale)) for level, n in PROBLEMS.items()}
    collect(load("draft", folder / "draft" / "last.pt"), counts, part, first=10**9)
    part.rename(made)


def stage(name: str, folder: Path, seed: int | None = None, scale: float = 1.0) -> None:
    """Run one stage in `folder`; a finished one returns at once.

    With a scale below 1 it is a rehearsal, and the pair is written into `folder` alone.
    """
    plans = {"target": TARGET, "judge": JUDGE, "polish": POLISH, "doubt": DOUBT, "draft": DRAFT}
    if name in plans:
        plan = plans[name]
        plan = plan if seed is None else replace(plan, seed=seed + plan.seed)
        plan = plan if scale == 1 else scaled(plan, scale)
    made = folder / "made.jsonl"
    if name in ("target", "draft"):
        resume(plan, folder / name).train()
    elif name == "made" and not made.exists():
        collect_made(folder, made, scale)
    elif name == "judge":
        resume(replace(plan, made=made), folder / name, after=folder / "target").train()
    elif name == "polish":
        polish(replace(plan, made=made), folder)
    elif name == "doubt":
        resume(replace(plan, made=made), folder / name, after=folder / "polish").train()
    elif name == "export":
        for role, last in (("target", "doubt"), ("draft", "draft")):
            to = pocket.path(role) if scale == 1 else folder / "pair" / role
            export(role, folder / last / "last.pt", to)
