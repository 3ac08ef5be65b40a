"""Model cards: written from an evaluation's JSON, so that no figure is typed by hand.

python -m train.pocket.evaluate --levels 1 2 --n 500 --json low.json
python -m train.pocket.evaluate --levels 3 --n 300 --json three.json
python -m train.pocket.evaluate --levels 4 5 --n 100 --json high.json
python -m train.pocket.card low.json three.json high.json
"""

import argparse
import json
from pathlib import Path

from dream_r import pocket

TITLES = {"target": "Pocket target", "draft": "Pocket draft"}
ROLES = {
    "target": "It solves the pocket world's problems step by step and judges steps that others "
    "wrote: after a candidate step and the suffix `Verdict:` the probabilities of "
    "` positive` and ` negative` give rho.",
    "draft": "It proposes steps quickly and is often wrong: in what it sees, in which cells fit, "
    "and in its sums. It was not taught to judge. It is weaker because it is smaller "
    "and was trained for less long, not because anything was spoiled.",
}
ROWS = {
    "n": "problems",
    "target_solves": "target alone solves",
    "draft_solves": "draft alone solves",
    "speculative_solves": "speculative reasoning solves",
    "acceptance": "draft steps accepted",
    "draft_steps_right": "draft steps right",
    "judge_auc": "judge: AUC on draft steps",
    "judge_precision": "judge: precision at rho > alpha",
    "judge_recall": "judge: right steps accepted",
    "false_accepts": "judge: wrong steps accepted",
    "decisive": "rho below .2 or above .8",
    "steps_per_problem": "steps a problem",
    "tokens_per_problem": "thinking tokens a problem",
    "step_length": "tokens a step",
}

BODY = """---
license: apache-2.0
pipeline_tag: image-text-to-text
---
# {title}

A Qwen3-VL of {parameters:,} parameters (vision tower with DeepStack, interleaved M-RoPE, QK-norm,
grouped-query attention), trained from scratch on made problems. {role}

## The world
Pictures of grids of coloured shapes or digits, one 32-pixel cell per visual token, and questions
that take several short steps: count, most, digits, sum, difference, compare. Levels 1 to 4 grow
from one predicate on 3x3 cells to two on 4x4 or three on 3x3; level 5 (5x5) is never trained. Grain
and jitter of the picture are a second axis. Every step ends in a blank line; after `</think>`
comes `The answer is \\boxed{{...}}.` Splits never share a seed's random stream; about one in ten
combinations of predicates, and some palettes, occur only in the held-out split.

## Recipe
`python -m train.pocket` from a seed: perception first; then steps, some with one wrong word in
them, after which the lesson is the right continuation of what was said; small training-only heads
over the layers (which cell is meant, what it shows, is this word wrong, is this step wrong);
Muon and AdamW in float32. {recipe} The shipped weights come from one run on two busy CPU cores
whose settings were changed by hand as its curves showed what was missing; `recipe.py` holds these
phases in order with their settings, so a run of it gives a similar pair, not the same bits.

## Figures
Held-out split, greedy, alpha {alpha}, plain PyTorch with the shipped bf16 weights computed in
float32. {note}

{table}

Weakest families of the target: {weak}.

Draft mistakes by their first wrong word (the first 400 of a level). {mistakes}.
Reproduce: `python -m train.pocket.evaluate --levels 1 2 --n 500`, the others alike.

## For and not for
For demonstrations, tests and measurements of speculative reasoning without a download or a GPU.
It knows nothing but this world: on any other picture or question its output means nothing, and
speed-ups measured with it say little about large models. One training seed; take the figures as
what this pair does, not as statistics of the recipe.
"""
RECIPES = {
    "target": "The judge was trained on spoiled and misplaced steps, then on steps that the draft "
    "wrote. Two more stages drilled sums and conclusions, and showed the judge plans and "
    "conclusions with the wrong predicate: 740 steps from the judge stage's weights rounded to "
    "bf16, with new heads and optimisers; their rates and mixes were changed four times on the "
    "way, which `recipe.py` gives as two settings.",
    "draft": "Stopped early, on purpose, so that there is something left to learn.",
}


def render(role: str, result: dict) -> str:
    figures = result["figures"]
    head = "| | " + " | ".join(figures) + " |\n|---|" + "---|" * len(figures)
    rows = [
        "| "
        + title
        + " | "
        + " | ".join("-" if f[key] is None else f"{f[key]:.4g}" for f in figures.values())
        + " |"
        for key, title in ROWS.items()
    ]
    mistakes = "; ".join(
        f"{level}: "
        + ", ".join(f"{k} {v:.0%}" for k, v in figures[level]["draft_mistakes"].items())
        for level in list(figures)[:2]
    )
    by_family = {
        (f, level): share
        for level, figure in figures.items()
        if level != "level 5"
        for f, share in figure.get("target_by_family", {}).items()
    }
    worst = sorted(by_family.items(), key=lambda item: item[1])[:4]
    weak = ", ".join(f"{family} on {level} {share:.2f}" for (family, level), share in worst)
    return BODY.format(
        weak=weak,
        title=TITLES[role],
        role=ROLES[role],
        recipe=RECIPES[role],
        parameters=result["parameters"][role],
        alpha=result["alpha"],
        table="\n".join([head, *rows]),
        mistakes=mistakes,
        note="Level 5 was never trained." if "level 5" in figures else "",
    )


def merged(results: list[dict]) -> dict:
    """The figures of several evaluations of one pair, in the order of their names."""
    figures = {name: f for result in results for name, f in result["figures"].items()}
    if len(figures) != sum(len(result["figures"]) for result in results):
        raise ValueError("two evaluations have figures of the same level")
    if any(r[key] != results[0][key] for r in results for key in ("split", "alpha", "parameters")):
        raise ValueError("the evaluations differ in split, alpha or models")
    return results[0] | {"figures": dict(sorted(figures.items()))}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("json", type=Path, nargs="+", help="what train.pocket.evaluate wrote")
    result = merged([json.loads(path.read_text()) for path in parser.parse_args().json])
    for role in TITLES:
        (pocket.path(role) / "README.md").write_text(render(role, result))


if __name__ == "__main__":
    main()
