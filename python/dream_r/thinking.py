"""Where thinking ends: at the token </think>, or where a tokenizer without one spells it.

Ordinary tokens spell it differently by what stands beside it ("." + "</think>" may begin with the
token ".</", "</think>" + a blank line end with ">\\n\\n"), so their characters are followed and no
list of ids is looked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dream_r.tokens import Tokens

MARK = "</think>"
_MARK = MARK.encode()

Spelling = dict[int, tuple[int, ...]]


def spelling(tokens: Tokens) -> Spelling:
    """Of each token that can take part in a spelled </think>: how many of its characters stand at
    the end of the text after the token, for 0 to 7 of them before it; 8: all have been read.

    Empty where </think> is a token. ValueError where it cannot be written at all.
    """
    if tokens.think_end is not None:
        return {}
    if MARK not in tokens.decode(tokens.encode(MARK)):
        raise ValueError(f"model {tokens.name}: its tokenizer cannot write {MARK}")
    inner = {MARK[i:j] for i in range(1, len(MARK)) for j in range(i + 1, len(MARK) + 1)}
    ends = tuple(MARK[i:] for i in range(1, len(MARK)))
    found = {}
    for name, token in tokens.names():
        if "<" in name or name in inner or name.startswith(ends):
            read = tuple(read_on(n, tokens.spelled(token)) for n in range(len(MARK)))
            if any(read):
                found[token] = read
    return found


def read_on(read: int, text: bytes) -> int:
    """Characters of </think> at the end of a text after `text`, when `read` were there before."""
    for byte in text:
        if byte == _MARK[read]:
            read += 1
        else:  # only its first character may begin it anew: no other is a <
            read = int(byte == _MARK[0])
        if read == len(_MARK):
            break
    return read


def until_mark(text: bytes) -> tuple[bytes, bool]:
    """What stands before </think> (all where it is not), and whether it is there."""
    head, mark, _ = text.partition(_MARK)
    return head, bool(mark)
