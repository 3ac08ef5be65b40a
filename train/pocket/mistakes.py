"""Naming what went wrong in a step, by its first wrong word."""

import re

from dream_r.pocket.words import COLOURS, DIGITS, PLURALS, SHAPES

WORDS = re.compile(r"\.\n\n|</think>| ?\d+| ?[a-z]+,?| ?[^\sa-z\d]", re.IGNORECASE)


def kind_of(said: str, right: str) -> str:
    """ "perception", "matching", "arithmetic", "structure" or "other" for a wrong step."""
    a, b = WORDS.findall(said), WORDS.findall(right)
    at = next(
        (i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b))
    )
    if at >= len(a) or at >= len(b):
        return "structure"
    word, head = b[at].strip(" ,"), right.split(":")[0]
    if at == 0 or word in ("First", "Now", "Row"):
        return "structure"
    in_row = head.startswith("Row")
    before_colon = len("".join(b[:at])) < len(head)
    if word in ("yes", "no"):
        return "matching"
    if in_row and not before_colon:
        after_so = " so" in b[:at]
        if after_so:
            return "arithmetic"
        if word in (*COLOURS, *SHAPES, *DIGITS, "empty"):
            return "perception"
    if before_colon and word in (*COLOURS, *PLURALS):
        return "matching"
    if word.isdigit():
        return "structure" if before_colon else "arithmetic"
    return "other"
