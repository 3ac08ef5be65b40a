"""A step of one model in the tokens of another: the same text, read anew (steps, never tokens)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cached_property

from dream_r.thinking import MARK, until_mark
from dream_r.tokens import Tokens


class Translator:
    """From `source`'s ids to `target`'s. A function of the step alone; safe in any thread.

    Bytes stay what they are, characters cut in two at an end included. </think> and other added
    tokens go by their name; a special token that `target` has not is left out, and no text turns
    into an added token because it is spelled like one.
    """

    def __init__(self, source: Tokens, target: Tokens) -> None:
        self._source, self._target = source, target

    def step(self, ids: Iterable[int]) -> list[int]:
        out: list[int] = []
        text = bytearray()
        for token in ids:
            name = self._source.added(token)
            other = None if name is None else self._target.id(name)
            if other is None:
                text += self._source.spelled(token)
                continue
            out += self._plain(bytes(text))
            out.append(other)
            text.clear()
        return out + self._last(bytes(text))

    def _last(self, text: bytes) -> list[int]:
        """Ids of a step's last text.

        Where `source` spells </think>, the step ends with it: what its last token has behind it is
        left out, and it becomes the token of `target` if that has one.
        """
        head, ends = until_mark(text) if self._source.think_end is None else (text, False)
        if not ends:
            return self._plain(text)
        if self._target.think_end is None:
            return self._plain(head + MARK.encode())
        return [*self._plain(head), self._target.think_end]

    def _plain(self, text: bytes) -> list[int]:
        """Ids of text in which no added token is meant: what looks like one is cut in two."""
        out: list[int] = []
        for part, whole in characters(text):
            if not whole:
                out += self._target.byte_ids(part)
                continue
            read, at = part.decode(), 0
            for found in self._names.finditer(read):
                out += self._target.encode(read[at : found.start() + 1])
                at = found.start() + 1
            out += self._target.encode(read[at:])
        return out

    @cached_property
    def _names(self) -> re.Pattern[str]:
        names = sorted(self._target.added_names, key=len, reverse=True)
        return re.compile("|".join(map(re.escape, names)) or r"(?!)")


def characters(text: bytes) -> list[tuple[bytes, bool]]:
    """`text` in parts: whole characters of UTF-8 (True), and bytes that are none (False)."""
    parts: list[tuple[bytes, bool]] = []
    while text:
        try:
            text.decode()
            return [*parts, (text, True)]
        except UnicodeDecodeError as error:
            begin, end = error.start, error.end
        parts += [(text[:begin], True)] if begin else []
        parts.append((text[begin:end], False))
        text = text[end:]
    return parts
