"""The prompts: how a question is put, how a step is judged. Files, so that they can be swapped.

Looked for in this order: the user's file, the checkpoint's own (reasoning.txt, scoring.json,
digit.json), the defaults in this package.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.resources import files
from os import PathLike
from pathlib import Path
from typing import Any

from dream_r.checkpoint import Checkpoint
from dream_r.tokens import Tokens

Source = str | PathLike[str] | None


@dataclass(frozen=True)
class Scoring:
    """What follows a step to have it judged, and the two words that may answer."""

    suffix: str
    positive: str
    negative: str


@dataclass(frozen=True)
class Digits:
    """What follows a step to have it graded, and the spellings of each grade 0 to 9.

    A grade without spellings cannot be given: a judge that knows two words grades 0 or 9.
    """

    suffix: str
    digits: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Prompts:
    reasoning: str
    scoring: Scoring
    digits: Digits

    def question(self, text: str) -> str:
        return self.reasoning.replace("{question}", text.strip())


def load_prompts(
    checkpoint: Checkpoint, reasoning: Source = None, scoring: Source = None, digits: Source = None
) -> Prompts:
    """The prompts for a target. ValueError naming the file for anything malformed."""
    where, text = _find(checkpoint, reasoning, "reasoning.txt")
    if "{question}" not in text:
        raise ValueError(f"{where}: the reasoning prompt must contain {{question}}")
    own_judge = scoring is not None or (checkpoint.folder / "scoring.json").exists()
    own_grader = digits is not None or (checkpoint.folder / "digit.json").exists()
    score = _scoring(*_find(checkpoint, scoring, "scoring.json"))
    if own_judge and not own_grader:  # a checkpoint taught one question of two answers is asked it
        none: tuple[str, ...] = ()
        grade = Digits(score.suffix, ((score.negative,), *[none] * 8, (score.positive,)))
    else:
        grade = _digits(*_find(checkpoint, digits, "digit.json"))
    return Prompts(text.rstrip("\n"), score, grade)


def _find(checkpoint: Checkpoint, given: Source, name: str) -> tuple[str, str]:
    if given is not None:
        try:
            return str(given), Path(given).expanduser().read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ValueError(f"{given}: the prompt file cannot be read: {reason}") from None
    if (text := checkpoint.text(name)) is not None:
        return str(checkpoint.folder / name), text
    return name, files("dream_r").joinpath("prompts", name).read_text(encoding="utf-8")


def _object(where: str, text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{where}: not JSON: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{where}: must be a JSON object")
    return found


def _words(where: str, found: dict[str, Any], *names: str) -> list[str]:
    for name in names:
        if not isinstance(found.get(name), str) or not found[name]:
            raise ValueError(f"{where}: {name!r} must be a non-empty string")
    return [found[name] for name in names]


def _scoring(where: str, text: str) -> Scoring:
    return Scoring(*_words(where, _object(where, text), "suffix", "positive", "negative"))


def _digits(where: str, text: str) -> Digits:
    found = _object(where, text)
    (suffix,) = _words(where, found, "suffix")
    table = found.get("digits")
    if not isinstance(table, dict) or not table or set(table) - set("0123456789"):
        raise ValueError(f'{where}: \'digits\' must map digits "0" to "9" to their spellings')
    spellings = [table.get(str(d), ()) for d in range(10)]
    return Digits(suffix, tuple((s,) if isinstance(s, str) else tuple(s) for s in spellings))


def keywords(tokens: Tokens, scoring: Scoring, spellings: bool) -> tuple[list[int], list[int]]:
    """Token ids of the two keywords. ValueError unless they are one token each and differ."""
    sides = []
    for word in (scoring.positive, scoring.negative):
        ids = tokens.encode(word)
        if len(ids) != 1:
            raise ValueError(
                f"scoring prompt: the keyword {word!r} is {len(ids)} tokens for model "
                f"{tokens.name}; choose one that is a single token"
            )
        if spellings:
            bare = word.strip()
            others = [
                f"{space}{form}"
                for form in (bare, bare.capitalize(), bare.upper())
                for space in ("", " ")
            ]
            ids += [i[0] for i in map(tokens.encode, others) if len(i) == 1 and i[0] not in ids]
        sides.append(ids)
    if shared := set(sides[0]) & set(sides[1]):
        raise ValueError(
            f"scoring prompt: {scoring.positive!r} and {scoring.negative!r} share the "
            f"token {tokens.decode(shared)!r}; choose keywords that differ"
        )
    return sides[0], sides[1]


def digit_ids(tokens: Tokens, digits: Digits) -> list[list[int]]:
    """Token ids of the spellings of each grade 0 to 9, each a single token."""
    table = []
    for words in digits.digits:
        ids = [tokens.encode(word) for word in words]
        for word, found in zip(words, ids, strict=True):
            if len(found) != 1:
                raise ValueError(
                    f"digit prompt: {word!r} is {len(found)} tokens for model "
                    f"{tokens.name}; each digit must be a single token"
                )
        table.append([found[0] for found in ids])
    return table
