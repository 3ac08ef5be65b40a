"""Saying a step word by word, so that every word can be checked, or spoiled, where it stands."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field


@dataclass
class Word:
    """One token of a step: what was said, what is right there, and the cell it speaks of."""

    said: str
    right: str | None  # None: nothing is right after the mistake before it
    cell: tuple[int, int] | None = None  # row and column
    # What helps to find the next word: ("next", the column whose digit is added) or
    # ("sign", 0 to 2: the first number is less, equal, more).
    hint: tuple[str, int] | None = None


@dataclass
class Speaker:
    """Collects the words of one step; of those that have alternatives, the ones counted in
    `spoil` are said wrongly.

    Everything after a wrong word follows from what was *said*, so the rest of the step is the
    right continuation of a wrong statement. `pick` chooses among the alternatives.
    """

    spoil: Collection[int] = ()
    pick: object = None
    words: list[Word] = field(default_factory=list)
    choices: int = 0

    def __call__(
        self,
        right: str | None,
        wrong: Sequence[str] = (),
        cell: tuple[int, int] | None = None,
        hint: tuple[str, int] | None = None,
    ) -> str:
        said = right
        if wrong:
            if right is None or self.choices in self.spoil:
                wrong = [w for w in wrong if w != right]
                said = wrong[int(self.pick(len(wrong)))] if self.pick else wrong[0]
            self.choices += right is not None
        self.words.append(Word(said, right, cell, hint))
        return said

    def text(self) -> str:
        return "".join(word.said for word in self.words)
