"""The families of questions: their wording, and the scratch-pad steps that answer them.

Every step is a function of the picture and of what earlier steps *stated*, so there is a right
next step after any prefix, also after a mistake. A predicate is a colour or a shape.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dream_r.pocket.speaker import Speaker
from dream_r.pocket.words import COLOURS, COLUMNS, DIGITS, END_OF_STEP, LARGEST, PLURALS, SHAPES

if TYPE_CHECKING:
    from dream_r.pocket.problems import Scene

NUMBERS = tuple(f" {n}" for n in range(LARGEST + 1))


def noun(predicate: str, digits: bool = False) -> str:
    """What a predicate's things are called: "red shapes", "red digits" or "circles"."""
    if predicate in COLOURS:
        return f"{predicate} {'digits' if digits else 'shapes'}"
    return PLURALS[SHAPES.index(predicate)]


@dataclass(frozen=True)
class Family:
    """A kind of question about `asks` predicates; `last` is its concluding step, if any."""

    name: str
    asks: tuple[int, ...]
    wordings: tuple[str, ...]
    last: str | None
    digits: bool = False
    same_kind: bool = False  # both colours or both shapes, so that nothing counts twice


FAMILIES = {
    f.name: f
    for f in (
        Family("count", (1,), ("How many {0} are there?", "Count the {0}."), None),
        Family(
            "most", (1,), ("Which row has the most {0}?", "In which row are the most {0}?"), "most"
        ),
        Family(
            "digits",
            (1, 2),
            ("What do the {0} add up to?", "Add up the {0}."),
            "together",
            digits=True,
            same_kind=True,
        ),
        Family(
            "sum",
            (2, 3),
            ("How many {0} are there together?", "Count the {0} together."),
            "together",
            same_kind=True,
        ),
        Family(
            "difference",
            (2,),
            (
                "What is the difference between the number of {0}?",
                "By how much do the number of {0} differ?",
            ),
            "difference",
        ),
        Family(
            "compare", (2,), ("Which are there more of, {0}?", "Are there more {0}?"), "compare"
        ),
    )
}


def question(family: Family, predicates: tuple[str, ...], wording: int) -> str:
    joint = " or " if family.name == "compare" else " and "
    things = [noun(p, family.digits) for p in predicates]
    text = ", ".join(things[:-1]) + joint + things[-1] if len(things) > 1 else things[0]
    return family.wordings[wording].format(text)


def script(family: Family, predicates: tuple[str, ...], rows: int) -> list[tuple]:
    """The kinds of step of a solution, in order: (kind, which predicate, which row)."""
    kinds: list[tuple] = []
    for k in range(len(predicates)):
        kinds.append(("plan", k, 0))
        kinds += [("row", k, r) for r in range(rows)]
        if family.last != "most":
            kinds.append(("total", k, 0))
    if family.last and not (family.last == "together" and len(predicates) == 1):
        kinds.append((family.last, 0, 0))
    return kinds


def _name(say: Speaker, scene: Scene, predicate: str) -> str:
    """Say the noun of a predicate; return the predicate that was said."""
    others = [*scene.predicates, *(COLOURS if predicate in COLOURS else SHAPES)]
    if predicate in COLOURS:
        things = " digits" if scene.family.digits else " shapes"
        said = say(f" {predicate}", [f" {p}" for p in others if p in COLOURS])[1:]
        say(things)
        return said
    plurals = [f" {noun(p)}" for p in others if p in SHAPES]
    return SHAPES[PLURALS.index(say(f" {noun(predicate)}", plurals)[1:])]


def _near(n: int) -> list[str]:
    return [NUMBERS[m] for m in (n - 2, n - 1, n + 1, n + 2) if 0 <= m <= LARGEST]


def _add(say: Speaker, values: list[int], columns: Sequence[int] = ()) -> int:
    """Say a chain of additions, "1 + 0 = 1, 1 + 2 = 3", and return what was said last.

    `columns`: where in the row each value stands, if it does.
    """
    first, *rest = values
    total = int(say(f" {first}", _near(first)))
    for k, value in enumerate(rest):
        if k:
            say(",")
            say(f" {total}")
        say(" +", hint=("next", columns[k + 1]) if columns else None)
        value = int(say(f" {value}", _near(value)))
        say(" =")
        right = min(total + value, LARGEST)
        total = int(say(f" {right}", _near(right)))
    return total


def _row(say: Speaker, scene: Scene, predicate: str, row: int) -> None:
    rows = range(len(scene.cells))
    say("Row")
    row = int(say(f" {row + 1}", [f" {r + 1}" for r in rows])) - 1
    predicate = _name(say, scene, predicate)
    say(":")
    hits, columns = [], []
    things = DIGITS if scene.family.digits else SHAPES
    for c, cell in enumerate(scene.cells[row]):
        say(f" {COLUMNS[c]}", cell=(row, c))
        colour, thing = cell or ("empty", "")
        colours = [f" {w}" for w in (*COLOURS, "empty")]
        said = say(f" {colour}", colours, cell=(row, c))[1:]
        what = None
        if said != "empty":
            right = f" {thing}" if cell else None
            what = say(right, [f" {w}" for w in things], cell=(row, c))[1:]
        fits = predicate in (said, what)
        fits = say(" yes," if fits else " no,", (" yes,", " no,")) == " yes,"
        if fits:
            hits.append(int(what) if scene.family.digits and what else 1)
            columns.append(c)
    summed = scene.family.digits and bool(hits)
    say(" so", hint=("next", columns[0]) if summed else None)
    if summed:
        _add(say, hits, columns)
    else:
        say(f" {len(hits)}", NUMBERS[: len(scene.cells[0]) + 1])


def write_step(say: Speaker, scene: Scene, kind: tuple, stated: Stated) -> None:
    """Say the step of this kind that is right after what was `stated`."""
    what, k, row = kind
    plan = stated.plans.get(k, scene.predicates[k])
    if what == "plan":
        say("First" if k == 0 else "Now")
        say(" I")
        say(" add" if scene.family.digits else " count")
        say(" the")
        _name(say, scene, scene.predicates[k])
    elif what == "row":
        _row(say, scene, plan, row)
    elif what == "total":
        say("Sum")
        say(" of")
        _name(say, scene, plan)
        say(":")
        _add(say, stated.rows(k))
    elif what == "most":
        say("Most")
        _name(say, scene, plan)
        say(":")
        counts = []
        for count in stated.rows(0):
            counts.append(int(say(f" {count}", NUMBERS[: len(scene.cells[0]) + 1])))
            say(",")
        say(" so")
        say(" row")
        say(f" {counts.index(max(counts)) + 1}", NUMBERS[1 : len(counts) + 1])
    elif what == "together":
        say("Together")
        say(":")
        _add(say, stated.totals())
    else:
        say("Difference" if what == "difference" else "Compare")
        say(":")
        first, second = stated.totals()
        first = int(say(f" {first}", _near(first)))
        say(" and")
        second = int(say(f" {second}", _near(second)))
        if what == "difference":
            say(" differ")
            say(" by")
            gap = abs(first - second)
            say(f" {gap}", _near(gap))
        else:
            sign = ("sign", 1 + (first > second) - (first < second))
            say(",", hint=sign)
            say(" so", hint=sign)
            verdict = " equal" if first == second else " more"
            verdict = say(verdict, (" equal", " more"), hint=sign)
            if verdict == " more":
                _name(say, scene, scene.predicates[0 if first >= second else 1])
    say(END_OF_STEP)


class Stated:
    """What the steps of a prefix stated, read back from their text."""

    def __init__(self, scene: Scene, kinds: list[tuple], steps: list[str]) -> None:
        self.scene = scene
        self.plans: dict[int, str] = {}
        self.counts: dict[tuple[int, int], int] = {}
        self.sums: dict[int, int] = {}
        for (what, k, row), step in zip(kinds, steps, strict=False):
            numbers = re.findall(r"\d+", step)
            value = min(int(numbers[-1]), LARGEST) if numbers else 0
            if what == "plan":
                self.plans[k] = read_predicate(step) or scene.predicates[k]
            elif what == "row":
                self.counts[k, row] = value
            elif what == "total":
                self.sums[k] = value

    def rows(self, k: int) -> list[int]:
        return [self.counts.get((k, r), 0) for r in range(len(self.scene.cells))]

    def totals(self) -> list[int]:
        return [self.sums.get(k, 0) for k in range(len(self.scene.predicates))]


def read_predicate(step: str) -> str | None:
    """The first predicate that a text names."""
    for word in re.findall(r"[a-z]+", step):
        if word in COLOURS:
            return word
        if word in PLURALS:
            return SHAPES[PLURALS.index(word)]
    return None


def read_answer(family: Family, step: str) -> str:
    """The answer that a concluding step states."""
    if family.name != "compare":
        return re.findall(r"\d+", step)[-1]
    tail = step.rsplit("so", 1)[-1]
    predicate = read_predicate(tail)
    return noun(predicate) if predicate else "equal"
