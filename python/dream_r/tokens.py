"""The tokenizer of a checkpoint: text to ids, ids to bytes, and the class of each token.

Steps end at tokens whose *bytes* contain a blank line, so the classes are computed from bytes, once
for the whole vocabulary; nothing is decoded while generating.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterable
from functools import cached_property
from typing import TYPE_CHECKING, Any

from dream_r.checkpoint import Checkpoint
from dream_r.thinking import MARK, Spelling, spelling

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from tokenizers import Tokenizer

BLANK_LINE, STARTS_LINE, ENDS_LINE, WHITE = 1, 2, 4, 8  # bits of a token's class

# Tokens that stand for pictures or turns: sampling one would wreck the next forward.
_CONTROL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
    "<image>",
    "<video>",
)
_SPACES = b" \t\n\r\v\f"


def _byte_letters() -> dict[int, str]:
    """The letter that byte-level BPE writes for each byte."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = {byte: chr(byte) for byte in plain}
    rest = sorted(set(range(256)) - set(plain))
    letters.update({byte: chr(256 + i) for i, byte in enumerate(rest)})
    return letters


_LETTERS = _byte_letters()
_BYTES = {letter: byte for byte, letter in _LETTERS.items()}


def load_tokenizer(checkpoint: Checkpoint) -> Tokenizer:
    """tokenizer.json as it is; a checkpoint without one goes through transformers."""
    from tokenizers import Tokenizer

    path = checkpoint.folder / "tokenizer.json"
    if path.exists():
        try:
            return Tokenizer.from_file(str(path))
        except Exception as error:  # tokenizers raises bare Exception
            raise ValueError(
                f"model {checkpoint.name}: tokenizer.json is damaged: {error}"
            ) from None
    if not (checkpoint.folder / "vocab.json").exists():
        raise ValueError(f"model {checkpoint.name}: the folder has no tokenizer.json")
    from transformers import AutoTokenizer

    try:  # without the False, transformers asks on a terminal whether to run a checkpoint's code
        made = AutoTokenizer.from_pretrained(checkpoint.folder, trust_remote_code=False)
    except (OSError, ValueError) as error:
        line = " ".join(str(error).split())
        raise ValueError(
            f"model {checkpoint.name}: no tokenizer.json, and none can be made: {line}"
        ) from None
    return made.backend_tokenizer


class Tokens:
    """Text, ids and bytes of one checkpoint's vocabulary."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.name = checkpoint.name
        self._checkpoint = checkpoint
        self._tokenizer = load_tokenizer(checkpoint)
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        decoder = self._tokenizer.decoder
        self._byte_level = decoder is None or b"ByteLevel" in decoder.__getstate__()
        self._added = self._tokenizer.get_added_tokens_decoder()
        self._cache: dict[int, bytes] = {}

    def __len__(self) -> int:
        """One more than the largest id."""
        return max(self._vocabulary.values(), default=-1) + 1

    @cached_property
    def _vocabulary(self) -> dict[str, int]:
        return self._tokenizer.get_vocab(with_added_tokens=True)

    def names(self) -> Iterable[tuple[str, int]]:
        """Every token as the vocabulary spells it, and its id."""
        return self._vocabulary.items()

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, nothing added."""
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def id(self, token: str) -> int | None:
        return self._tokenizer.token_to_id(token)

    def added(self, token: int) -> str | None:
        """The name of a token that is not made of text: </think>, <|im_end|> and their like."""
        found = self._added.get(token)
        return None if found is None else found.content

    @property
    def added_names(self) -> list[str]:
        return [found.content for found in self._added.values()]

    def byte_ids(self, text: bytes) -> list[int]:
        """An id for each byte of `text`; bytes that have none in this vocabulary are left out."""
        names = (_LETTERS[b] if self._byte_level else f"<0x{b:02X}>" for b in text)
        return [i for name in names if (i := self.id(name)) is not None]

    def spelled(self, token: int) -> bytes:
        """What a token stands for; empty for special tokens and unused ids."""
        if token not in self._cache:
            self._cache[token] = self._bytes(token)
        return self._cache[token]

    def _bytes(self, token: int) -> bytes:
        if (added := self._added.get(token)) is not None:
            return b"" if added.special else added.content.encode()
        piece = self._tokenizer.id_to_token(token)
        if piece is None:
            return b""
        if self._byte_level:
            return bytes(_BYTES[letter] for letter in piece if letter in _BYTES)
        if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
            return bytes.fromhex(piece[3:5])
        return piece.replace("▁", " ").encode()

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`, without special tokens."""
        return b"".join(map(self.spelled, ids)).decode("utf-8", "replace")

    def stream(self) -> TextStream:
        return TextStream(self)

    def classes(self, size: int) -> NDArray[np.uint8]:
        """Class bits of every id below `size` (the model's vocabulary)."""
        import numpy as np

        found = np.zeros(size, np.uint8)
        newline = _LETTERS[10] if self._byte_level else "\n"
        spaces = "".join(_LETTERS[b] if self._byte_level else chr(b) for b in _SPACES)
        if not self._byte_level:
            spaces += "▁"
        if len(self) > size:
            raise ValueError(
                f"model {self.name}: the tokenizer has ids up to {len(self) - 1}, the "
                f"model only {size} tokens"
            )
        near = [
            i
            for piece, i in self._vocabulary.items()
            if newline in piece or "<0x" in piece or not piece.strip(spaces)
        ]
        for i in {*near, *self._added}:
            found[i] = byte_class(self.spelled(i))
        return found

    @cached_property
    def eos(self) -> list[int]:
        """Tokens that end the answer: of generation_config.json and of the tokenizer."""
        listed = self._checkpoint.generation.get("eos_token_id")
        if listed is None:
            text = self._checkpoint.config.get("text_config", self._checkpoint.config)
            listed = text.get("eos_token_id")
        ids = list(listed) if isinstance(listed, list) else [] if listed is None else [listed]
        token: Any = self._checkpoint.tokenizer_config.get("eos_token")
        token = token.get("content") if isinstance(token, dict) else token
        if token is not None and (extra := self.id(token)) is not None and extra not in ids:
            ids.append(extra)
        if not ids:
            raise ValueError(
                f"model {self.name}: no end-of-text token is named in "
                "generation_config.json or tokenizer_config.json"
            )
        return ids

    @cached_property
    def think_end(self) -> int | None:
        """The token </think>; None where ordinary tokens spell it."""
        return self.id(MARK)

    @cached_property
    def think_spelling(self) -> Spelling:
        """How ordinary tokens spell </think>; empty where it is a token. ValueError: not at all."""
        return spelling(self)

    def suppressed(self, size: int) -> list[int]:
        """Ids below `size` that must never be sampled: control tokens and rows without a token."""
        control = {i for word in _CONTROL if (i := self.id(word)) is not None}
        unused = set(range(size)).difference(self._vocabulary.values())
        return sorted((control | unused) - set(self.eos))

    def control_in(self, text: str) -> str | None:
        """A special token spelled out in `text`, which a user's text must not contain."""
        if "<" not in text:
            return None
        return next(
            (a.content for a in self._added.values() if a.special and a.content in text), None
        )

    def same_as(self, other: Tokens) -> bool:
        """Whether both give the same ids to the same text.

        One of them may have more added tokens than the other, at the end.
        """
        ours, theirs = (t._checkpoint.folder / "tokenizer.json" for t in (self, other))
        if ours.exists() and theirs.exists() and ours.read_bytes() == theirs.read_bytes():
            return True
        small, large = sorted((self, other), key=lambda tokens: len(tokens._vocabulary))
        more = large._vocabulary.items() - small._vocabulary.items()
        return (
            len(more) == len(large._vocabulary) - len(small._vocabulary)
            and all(id in large._added and id >= len(small) for _, id in more)
            and small._rules == large._rules
        )

    @cached_property
    def _rules(self) -> dict[str, Any]:
        """How text is cut, apart from the vocabulary; as tokenizers writes it, whoever saved it."""
        found = json.loads(self._tokenizer.to_str())
        model = {k: v for k, v in found["model"].items() if k != "vocab" and v}
        return {"model": model, **{k: found[k] for k in ("normalizer", "pre_tokenizer")}}


class TextStream:
    """Decodes ids as they come; a character split over tokens appears when it is complete."""

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, ids: Iterable[int]) -> str:
        return self._decoder.decode(b"".join(map(self._tokens.spelled, ids)))

    def finish(self) -> str:
        return self._decoder.decode(b"", final=True)


def byte_class(text: bytes) -> int:
    """The class bits of a token's bytes."""
    return (
        BLANK_LINE * (b"\n\n" in text)
        | STARTS_LINE * text.startswith(b"\n")
        | ENDS_LINE * text.endswith(b"\n")
        | WHITE * bool(text and not text.strip(_SPACES))
    )
