"""Batched decoding with a KV cache, by steps: what evaluation and draft-made steps are made with.

It shares nothing with the C++ runtime, so that the one can serve as the other's oracle.
"""

from dataclasses import dataclass

import numpy as np
import torch
from dream_r.pocket import words
from dream_r.pocket.problems import Problem
from torch import Tensor

from train.pocket.data import IMAGE_AT, encode, patchify, picture_positions, prompt_ids, tokens
from train.pocket.model import PocketModel

LONGEST_STEP = 64


class Columns:
    """A KV cache of fixed size [B, kv heads, S, d] a layer, written at any column of any row."""

    def __init__(self, model: PocketModel, batch: int, size: int) -> None:
        s = model.shape
        shape = (s.layers, batch, s.kv_heads, size, s.head_dim)
        self.keys, self.values = torch.zeros(shape), torch.zeros(shape)
        self.at = torch.zeros(batch, 1, dtype=torch.long)
        self.used = 0

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        row = torch.arange(k.shape[0])[:, None]
        self.keys[layer][row, :, self.at] = k.transpose(1, 2)
        self.values[layer][row, :, self.at] = v.transpose(1, 2)
        return self.keys[layer][:, :, : self.used], self.values[layer][:, :, : self.used]


@dataclass
class Verdict:
    """The judge's answer about one candidate step."""

    rho: float
    mass: float  # probability of the two keywords together


class Decoder:
    """A batch of problems with one picture size; rows go on, roll back and stop on their own.

    `length` [B] counts the columns of each row that hold; `ahead` [B, vocab] are the logits of
    each row's next token. Rolling back is setting `length`, and `ahead` to what it was.
    """

    def __init__(self, model: PocketModel, problems: list[Problem], size: int = 1024) -> None:
        self.model, self.batch = model, len(problems)
        width, height = problems[0].image.size
        rows, columns = height // 32, width // 32
        visual = rows * columns
        self.shift = max(rows, columns) - visual  # from column to text position
        self.cache = Columns(model, self.batch, size)
        self.length = torch.zeros(self.batch, dtype=torch.long)
        prompts = [prompt_ids(p.question, visual) for p in problems]
        patches = torch.from_numpy(np.stack([patchify(np.asarray(p.image)) for p in problems]))
        self.picture = torch.from_numpy(picture_positions(rows, columns))
        with torch.inference_mode():
            seen = model.see(patches, (2 * rows, 2 * columns))
        self.ahead = self.last(self.feed(prompts, seen), prompts)

    @torch.inference_mode()
    def feed(self, texts: list, seen=None) -> Tensor:
        """Append ids (lists of any length, also empty) to the rows; last states [B, T, D]."""
        longest = max(len(t) for t in texts)
        ids = torch.zeros(self.batch, longest, dtype=torch.long)
        for row, text in enumerate(texts):
            ids[row, : len(text)] = torch.as_tensor(text, dtype=torch.long)
        at = self.length[:, None] + torch.arange(longest)
        positions = (at + torch.where(at > IMAGE_AT, self.shift, 0)).expand(3, -1, -1).clone()
        if seen is not None:
            positions[:, :, IMAGE_AT : IMAGE_AT + self.picture.shape[1]] = self.picture[:, None]
        self.cache.at, self.cache.used = at, int(at.max()) + 1
        mask = torch.arange(self.cache.used) <= at[..., None]
        state = self.model(ids, positions, mask, seen, IMAGE_AT, self.cache)[-1]
        self.length = self.length + torch.tensor([len(t) for t in texts])
        return state

    @torch.inference_mode()
    def last(self, state: Tensor, texts: list) -> Tensor:
        """Logits [B, vocab] after the last token of each text (after the first where empty)."""
        at = torch.tensor([max(len(t) - 1, 0) for t in texts])
        return self.model.logits(state[torch.arange(self.batch), at])

    def push(self, texts: list) -> None:
        """Append and keep the logits; rows with an empty text stay as they are."""
        fresh = self.last(self.feed(texts), texts)
        some = torch.tensor([len(t) > 0 for t in texts])
        self.ahead = torch.where(some[:, None], fresh, self.ahead)

    def write(
        self,
        active: list[bool],
        stop: frozenset[int],
        limit: int = LONGEST_STEP,
        temperature: float = 0.0,
        generator=None,
    ) -> list[list[int]]:
        """Let the active rows go on up to a token of `stop`; what each wrote ([] if inactive)."""
        wrote: list[list[int]] = [[] for _ in range(self.batch)]
        going = list(active)
        while any(going):
            if temperature:
                chances = (self.ahead / temperature).softmax(-1)
                picked = torch.multinomial(chances, 1, generator=generator)[:, 0].tolist()
            else:
                picked = self.ahead.argmax(-1).tolist()
            self.push([[picked[r]] if going[r] else [] for r in range(self.batch)])
            for r in range(self.batch):
                if going[r]:
                    wrote[r].append(picked[r])
                    going[r] = picked[r] not in stop and len(wrote[r]) < limit
        return wrote

    def back(self, mark: tuple[Tensor, Tensor], rows: list[bool]) -> None:
        """Return the given rows to an earlier `mark()`."""
        keep = torch.tensor(rows)
        self.length = torch.where(keep, mark[0], self.length)
        self.ahead = torch.where(keep[:, None], mark[1], self.ahead)

    def mark(self) -> tuple[Tensor, Tensor]:
        return self.length.clone(), self.ahead.clone()

    @torch.inference_mode()
    def judge(self, steps: list[list[int]]) -> list[Verdict]:
        """Append candidate steps and read the verdict on each; the suffix is taken back."""
        suffix = list(encode(words.SUFFIX))
        texts = [[*s, *suffix] if s else [] for s in steps]
        before, state = self.length, self.feed(texts)
        logits = self.last(state, texts)
        fresh = self.last(state, steps)
        some = torch.tensor([len(t) > 0 for t in steps])
        self.ahead = torch.where(some[:, None], fresh, self.ahead)
        self.length = before + torch.tensor([len(s) for s in steps])
        keys = [encode(words.POSITIVE)[0], encode(words.NEGATIVE)[0]]
        pair, mass = logits[:, keys], logits.softmax(-1)[:, keys].sum(-1)
        rho = torch.sigmoid(pair[:, 0] - pair[:, 1])
        return [Verdict(float(r), float(m)) for r, m in zip(rho, mass, strict=True)]


def ends() -> frozenset[int]:
    """Tokens that end a step."""
    return frozenset(
        encode(t)[0]
        for t in (words.END_OF_STEP, "\n\n", words.END_OF_THINKING, "<|im_end|>", "<|endoftext|>")
    )


def text_of(ids: list[int]) -> str:
    return tokens().decode(ids, skip_special_tokens=False)


def boxed(text: str) -> str | None:
    """The content of the last \\boxed{...} of a text."""
    _, found, tail = text.rpartition("\\boxed{")
    return tail.split("}")[0] if found and "}" in tail else None
