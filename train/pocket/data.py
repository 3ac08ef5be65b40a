"""From problems to training batches: a trunk of steps, some spoiled, and judge branches on it.

A sequence is the prompt, the steps as *stated* (one word in some of them is wrong) and the
answer. After it come branches, which look only at their own words and at the trunk up to the step
they hang on: the scoring suffix after every step, and now and then a whole step out of place.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np
import torch
from dream_r.pocket import words
from dream_r.pocket.families import Stated, read_answer, write_step
from dream_r.pocket.problems import Problem, answer_text, next_step, noun, problem
from dream_r.pocket.speaker import Speaker, Word
from torch import Tensor

from train.pocket.folder import tokenizer
from train.pocket.heads import COLOUR_CLASSES, SHAPE_CLASSES
from train.pocket.model import Tree

IGNORE = -100
COLUMNS = (
    "ids",
    "position",
    "segment",
    "anchor",
    "target",
    "judged",
    "wrong",
    "step",
    "see_colour",
    "see_shape",
    "at_row",
    "at_column",
    "next",
    "sign",
)
LABELS = COLUMNS[4:]
NO_LABELS = (IGNORE,) * len(LABELS)
IMAGE_AT = 4  # <|im_start|> user \n <|vision_start|> come first


@cache
def tokens():
    return tokenizer()


@lru_cache(100_000)
def encode(text: str) -> tuple[int, ...]:
    return tuple(tokens().encode(text, add_special_tokens=False).ids)


def prompt_ids(question: str, visual: int) -> tuple[int, ...]:
    """Ids of the rendered chat up to and with the opened <think>."""
    image = "<|vision_start|>" + "<|image_pad|>" * visual + "<|vision_end|>"
    head = encode(f"<|im_start|>user\n{image}")
    return (*head, *encode(question), *encode("<|im_end|>\n<|im_start|>assistant\n<think>\n"))


def patchify(pixels: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 3] -> float32 [P, 1536] in merge-block order, as Qwen's processor does it."""
    height, width = pixels.shape[0] // 16, pixels.shape[1] // 16
    x = (pixels.astype(np.float32) / 255 - 0.5) / 0.5
    x = x.reshape(height // 2, 2, 16, width // 2, 2, 16, 3).transpose(0, 3, 1, 4, 6, 2, 5)
    x = np.repeat(x[:, :, :, :, :, None], 2, axis=5)  # the same frame twice
    return np.ascontiguousarray(x).reshape(height * width, -1)


class Columns:
    """One problem as columns, each a list of the numbers named in COLUMNS.

    `segment` 0 is the trunk, branches count from 1; `anchor` is the last trunk column that a
    branch may look at; `position` is that of text, pictures are placed later.
    """

    def __init__(self) -> None:
        self.rows: list[list[int]] = []

    def add(self, token: int, position: int, segment: int = 0, anchor: int = -1, **labels) -> None:
        row = [token, position, segment, len(self.rows) if anchor < 0 else anchor, *NO_LABELS]
        for name, value in labels.items():
            row[COLUMNS.index(name)] = value
        self.rows.append(row)

    def position(self, column: int) -> int:
        return self.rows[column][1]

    def expect(self, token: int) -> None:
        """The right next token after the last column."""
        self.rows[-1][4] = token


@dataclass
class Batch:
    """Tensors of one step of training; columns are [B, S]."""

    ids: Tensor
    positions: Tensor  # [3, B, S]
    mask: Tree
    patches: Tensor  # [B, P, 1536]
    grid: tuple[int, int]
    cells: dict[str, Tensor]  # [B, N] each
    target: Tensor
    judged: Tensor
    wrong: Tensor
    step: Tensor
    see_colour: Tensor
    see_shape: Tensor
    at_row: Tensor
    at_column: Tensor
    next: Tensor
    sign: Tensor
    image_at: int = IMAGE_AT

    @property
    def tokens(self) -> int:
        return self.ids.numel()


@dataclass(frozen=True)
class Mix:
    """How often things go wrong in the trunk, and whether the judge is asked."""

    spoil: float = 0.3  # share of steps with one wrong word
    stray: float = 0.7  # share of problems with a branch that is a whole step out of place
    drills: int = 0  # branches a problem that say a sum or a conclusion once more, often wrongly
    confused: float = 0.0  # share of problems with a branch for every predicate mixed up
    judge: bool = True
    picture_only: bool = False  # prompts without steps, for perception


@cache
def _conclusions() -> tuple[list[int], int]:
    """Ids of the numbers, " equal" and " more", and of the last of them alone."""
    said = [f" {n}" for n in range(words.LARGEST + 1)] + [" equal", " more"]
    return [encode(w)[0] for w in said], encode(" more")[0]


def deduced(ids: Tensor, target: Tensor) -> Tensor:
    """Which right next words [B, S] follow from earlier words: numbers, and what is more."""
    ends, more = _conclusions()
    return torch.isin(target, torch.tensor(ends)) | ((ids == more) & (target >= 0))


def _say(p: Problem, stated: list[str], rng: np.random.Generator, spoil: bool) -> list[Word]:
    """The words of the next step, one of them wrong if `spoil`."""
    if spoil:
        trial = Speaker()
        next_step(p.scene, stated, trial)
        say = Speaker((int(rng.integers(trial.choices)),), rng.integers)
        next_step(p.scene, stated, say)
        return say.words
    say = Speaker()
    next_step(p.scene, stated, say)
    return say.words


def _stray(p: Problem, stated: list[str], rng: np.random.Generator) -> tuple[int, ...]:
    """Ids of a step that would be right elsewhere: skipped, repeated, early or late."""
    kinds = p.scene.kinds
    if len(stated) < len(kinds) and rng.random() < 0.15:
        return encode(words.END_OF_THINKING)
    if stated and rng.random() < 0.2:
        return encode(stated[-1])
    near = np.clip(len(stated) + rng.choice([-2, -1, 1, 2, 4]), 0, len(kinds) - 1)
    kind = kinds[int(near) if rng.random() < 0.8 else int(rng.integers(len(kinds)))]
    say = Speaker()
    write_step(say, p.scene, kind, Stated(p.scene, kinds, stated))
    return encode(say.text())


def _confused(p: Problem, before: list[str], kind: tuple) -> list[tuple[int, ...]]:
    """Ids of steps like a plan or conclusion but for the predicate, or the verdict, in the end.

    Drafts mix these up, and a judge that has not seen it is easily talked into it.
    """
    what, which, _ = kind
    if not (what == "compare" or (what == "plan" and which)):
        return []
    right = next_step(p.scene, before) or ""
    head, _, _ = right.rpartition(" so" if what == "compare" else " the")
    ends = [f" so more {noun(q)}" for q in p.scene.predicates] + [" so equal"]
    if what == "plan":
        ends = [f" the {noun(q, p.scene.family.digits)}" for q in p.scene.predicates]
    said = [f"{head}{end}{words.END_OF_STEP}" for end in ends]
    return [encode(text) for text in said if text != right]


def _drill(p: Problem, ends: list, rng: np.random.Generator) -> tuple[int, list[Word]]:
    """How many steps stand before a short step, and its words, up to two of them wrong.

    Sums, conclusions and plans are few, and much hangs on them; with other numbers in them they
    are worth many problems.
    """
    short = [k for k, (what, _, _) in enumerate(p.scene.kinds) if what != "row"]
    k = short[-1] if rng.random() < 0.6 else int(rng.choice(short))
    trial = Speaker()
    next_step(p.scene, ends[k][2], trial)
    # The numbers come first: the end of the step is to follow from any of them.
    some = min(trial.choices, 2 if rng.random() < 0.7 else trial.choices)
    spoil = rng.choice(some, rng.integers(3)) if some else ()
    say = Speaker({int(i) for i in spoil}, rng.integers)
    next_step(p.scene, ends[k][2], say)
    return k, say.words


def _spoken(seq: Columns, spoken: list[Word], anchor: int, segment: int) -> None:
    """A step as a branch, with what is right after each word of it, and the suffix after it."""
    at, good = seq.position(anchor), all(w.said == w.right for w in spoken)
    for k, word in enumerate(spoken):
        if word.right is not None and k:
            seq.expect(encode(word.right)[0])
        seq.add(
            encode(word.said)[0],
            at + k + 1,
            segment,
            anchor,
            wrong=IGNORE if word.right is None else int(word.said != word.right),
            step=int(not good) if k == len(spoken) - 1 else IGNORE,
            **dict([word.hint] if word.hint else ()),
        )
    _suffix(seq, at + len(spoken), good, anchor, segment)


def _suffix(seq: Columns, at: int, good: bool, anchor: int, segment: int) -> None:
    """The question put to the judge, from text position `at` on, and the right keyword."""
    suffix = encode(words.SUFFIX)
    keyword = encode(words.POSITIVE if good else words.NEGATIVE)[0]
    for k, token in enumerate(suffix, 1):
        seq.add(token, at + k, segment, anchor, judged=keyword if k == len(suffix) else IGNORE)


def _candidate(
    seq: Columns, ids: tuple[int, ...], right: tuple[int, ...], anchor: int, segment: int
) -> None:
    """A whole candidate step as a branch, with the suffix after it.

    Its words are known to be right up to the first that differs from the right step.
    """
    at, straight = seq.position(anchor), True
    for k, token in enumerate(ids, 1):
        same = k <= len(right) and right[k - 1] == token
        seq.add(
            token,
            at + k,
            segment,
            anchor,
            wrong=int(not same) if straight else IGNORE,
            step=int(ids != right) if k == len(ids) else IGNORE,
        )
        straight = straight and same
    _suffix(seq, at + len(ids), ids == right, anchor, segment)


def sequence(
    p: Problem,
    visual: int,
    start: int,
    rng: np.random.Generator,
    mix: Mix,
    made: dict[int, list[tuple[int, ...]]] | None = None,
) -> Columns:
    """The columns of a problem. `start` is the text position after the picture.

    `made`: ids of steps that a draft wrote after the first k steps; they become branches.
    """
    seq = Columns()
    prompt = prompt_ids(p.question, visual)
    for i, token in enumerate(prompt):
        seq.add(token, i if i < IMAGE_AT else start + i - IMAGE_AT - visual)
    at = seq.position(-1)
    first = next_step(p.scene, [])
    seq.expect(encode(first)[0])
    if mix.picture_only:
        return seq
    stated: list[str] = []
    ends: list[tuple[int, bool, list[str]]] = [(len(seq.rows) - 1, True, [])]
    kinds = p.scene.kinds
    while len(stated) < len(kinds):
        spoken = _say(p, stated, rng, rng.random() < mix.spoil)
        good = all(w.said == w.right for w in spoken)
        for k, word in enumerate(spoken):
            at += 1
            labels: dict[str, int] = {}
            if word.right is not None:
                labels["wrong"] = int(word.said != word.right)
                seq.expect(encode(word.right)[0])
            if word.cell:
                row, place = word.cell
                colour, shape = p.scene.cells[row][place] or ("empty", "empty")
                labels |= {
                    "at_row": row + 1,
                    "at_column": place + 1,
                    "see_colour": COLOUR_CLASSES.index(colour),
                    "see_shape": SHAPE_CLASSES.index(shape),
                }
            if word.hint:
                labels |= [word.hint]
            if k == len(spoken) - 1:
                labels["step"] = int(not good)
            seq.add(encode(word.said)[0], at, **labels)
        stated.append("".join(w.said for w in spoken))
        ends.append((len(seq.rows) - 1, good, list(stated)))
    for token in (
        *encode(words.END_OF_THINKING),
        *encode(answer_text(read_answer(p.scene.family, stated[-1]))),
        *encode("<|im_end|>"),
    ):
        at += 1
        seq.expect(token)
        seq.add(token, at)
        if token == encode(words.END_OF_THINKING)[0]:
            ends.append((len(seq.rows) - 1, True, []))
    if mix.judge:
        for k, (column, good, _) in enumerate(ends[1:], 1):
            _suffix(seq, seq.position(column), good, column, k)
        hung = [(k, ids) for k, several in (made or {}).items() for ids in several]
        if rng.random() < mix.stray:
            k = int(rng.integers(len(ends) - 1))
            hung.append((k, _stray(p, ends[k][2], rng)))
        if rng.random() < mix.confused:
            for k, kind in enumerate(p.scene.kinds):
                hung += [(k, ids) for ids in _confused(p, ends[k][2], kind)]
        for segment, (k, ids) in enumerate(hung, len(ends)):
            column, _, before = ends[k]
            right = encode(next_step(p.scene, before) or words.END_OF_THINKING)
            _candidate(seq, tuple(ids), right, column, segment)
        for segment in range(mix.drills):
            k, spoken = _drill(p, ends, rng)
            _spoken(seq, spoken, ends[k][0], len(ends) + len(hung) + segment)
    return seq


def picture_positions(rows: int, columns: int) -> np.ndarray:
    """M-RoPE positions [3, N] of a picture's visual tokens that starts at IMAGE_AT."""
    n = rows * columns
    at = np.full((3, n), IMAGE_AT)
    at[1] += np.arange(n) // columns
    at[2] += np.arange(n) % columns
    return at


def cell_labels(p: Problem) -> dict[str, np.ndarray]:
    """What each visual token shows, labels included; [N] each."""
    rows, columns = len(p.scene.cells) + 1, len(p.scene.cells[0]) + 1
    out = {name: np.full((rows, columns), IGNORE) for name in ("colour", "shape")}
    for r, line in enumerate(p.scene.cells):
        for c, cell in enumerate(line):
            colour, shape = cell or ("empty", "empty")
            out["colour"][r + 1, c + 1] = COLOUR_CLASSES.index(colour)
            out["shape"][r + 1, c + 1] = SHAPE_CLASSES.index(shape)
    out["row"], out["column"] = np.indices((rows, columns))
    return {k: v.reshape(-1) for k, v in out.items()}


def collate(
    problems: list[Problem], rng: np.random.Generator, mix: Mix, made: list[dict] | None = None
) -> Batch:
    """A batch of problems whose pictures have the same size; `made`: draft's steps of each."""
    rows, columns = len(problems[0].scene.cells) + 1, len(problems[0].scene.cells[0]) + 1
    visual, start = rows * columns, IMAGE_AT + max(rows, columns)
    seqs = [
        sequence(p, visual, start, rng, mix, m)
        for p, m in zip(problems, made or [None] * len(problems), strict=True)
    ]
    longest = max(len(s.rows) for s in seqs)
    longest += -longest % 8
    table = np.full((len(seqs), longest, len(COLUMNS)), IGNORE)
    table[:, :, :4] = (0, 0, -1, 0)
    for i, s in enumerate(seqs):
        table[i, : len(s.rows)] = s.rows
    columns_of = {
        name: torch.from_numpy(np.ascontiguousarray(table[:, :, i]))
        for i, name in enumerate(COLUMNS)
    }
    segment, anchor, position = (columns_of[k] for k in ("segment", "anchor", "position"))
    positions = position.expand(3, -1, -1).clone()
    positions[:, :, IMAGE_AT : IMAGE_AT + visual] = torch.from_numpy(
        picture_positions(rows, columns)
    )[:, None]
    # Padding sees itself alone, trunk columns everything before them, branches also themselves.
    at = torch.arange(longest).expand(len(seqs), -1)
    lo = at + 1
    branch = segment > 0
    first = torch.cat((segment[:, :1] >= 0, segment[:, 1:] != segment[:, :-1]), 1)
    start = torch.where(first, at, 0).cummax(1).values
    lo = torch.where(branch, start, lo)
    anchor = torch.where(segment < 0, at, anchor)
    mask = Tree(anchor.int().contiguous(), lo.int().contiguous())
    cells = [cell_labels(p) for p in problems]
    return Batch(
        ids=columns_of["ids"],
        positions=positions,
        mask=mask,
        patches=torch.from_numpy(np.stack([patchify(np.asarray(p.image)) for p in problems])),
        grid=(2 * rows, 2 * columns),
        cells={k: torch.from_numpy(np.stack([c[k] for c in cells])) for k in cells[0]},
        **{k: columns_of[k] for k in LABELS},
    )


def same_size(
    seeds: Iterable[int],
    level: int,
    split: str = "train",
    families: Sequence[str] = (),
    rng: np.random.Generator | None = None,
) -> list[Problem]:
    """Problems of a level with one picture size: the first seed's decides.

    With `families`, `rng` draws one of them for each problem.
    """
    made: list[Problem] = []
    for seed in seeds:
        family = families[rng.integers(len(families))] if families and rng else None
        p = problem(seed, level, family, split)
        if not made or p.image.size == made[0].image.size:
            made.append(p)
    return made
