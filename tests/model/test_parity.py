"""The same numbers as transformers, in f32: at most 1e-4 of the range of what is compared."""

from itertools import pairwise

import numpy as np
import pytest
from cases import NAMES, Runner, worst
from checkpoints import VARIANTS
from dream_r import _core

PART = 1e-4


@pytest.fixture(scope="module")
def ours(tiny):
    return _core.model.load(str(tiny.folder), "f32")


@pytest.mark.parametrize("name", NAMES)
def test_positions(tiny, ours, name):
    p = tiny.prompt(name)
    positions, delta, rows = ours.positions(p.ids, p.grids)
    theirs, their_delta = tiny.positions(p)
    assert np.array_equal(np.array(positions), theirs)
    assert delta == their_delta
    images = [r for r in rows if r >= 0]
    assert images == list(range(sum(p.types)))
    assert [int(r >= 0) for r in rows] == p.types


def features(ours, p) -> list[np.ndarray]:
    found = _core.model.Session(ours, blocks=1).encode_images(p.patches, p.grids)
    return [found.embeds, *found.deepstack]


@pytest.mark.parametrize("name", NAMES[1:])
def test_vision_tower(tiny, ours, name):
    p = tiny.prompt(name)
    for mine, theirs in zip(features(ours, p), tiny.vision(p), strict=True):
        assert worst(mine, theirs) < PART


@pytest.mark.parametrize("tiny", VARIANTS, indirect=True)  # R-4B knows no frames
def test_frames_attend_to_themselves_alone(tiny, ours):
    p = tiny.prompt("two frames")
    assert worst(features(ours, p)[0], tiny.vision(p)[0]) < PART


@pytest.mark.parametrize("name", NAMES)
def test_logits(tiny, ours, name):
    p = tiny.prompt(name)
    assert worst(Runner(ours, p).prefill(), tiny.logits(p)) < PART


@pytest.mark.parametrize("name", NAMES)
def test_decode(tiny, ours, name):
    p = tiny.prompt(name, seed=1)
    more = np.random.default_rng(2).integers(0, 300, 21).tolist()  # over a block's edge
    run = Runner(ours, p)
    run.prefill()
    assert worst(run.decode(more), tiny.logits(p, more)[len(p.ids) :]) < PART


def test_a_long_prompt_in_chunks_with_rollbacks(tiny, ours):
    """Over 1,000 tokens, pictures at the end, chunks that cut them; between the chunks tokens are
    decoded and taken back."""
    p = tiny.prompt("two images", seed=7, text=1021)
    rng = np.random.default_rng(8)
    cuts = [256, 511, 768, 1000, len(p.ids) - 9]
    run, pieces = Runner(ours, p), []
    for begin, end in pairwise([0, *cuts, len(p.ids)]):
        pieces.append(run.piece(begin, end))
        run.decode(rng.integers(0, 300, 3).tolist())
        run.session.truncate(end)
    more = rng.integers(0, 300, 2).tolist()
    logits = np.concatenate([*pieces, run.decode(more)])
    assert worst(logits, tiny.logits(p, more)) < PART


def test_decode_after_rollback(tiny, ours):
    p = tiny.prompt("two images", seed=3)
    rng = np.random.default_rng(4)
    kept, dropped, after = (rng.integers(0, 300, n).tolist() for n in (6, 23, 7))
    run = Runner(ours, p)
    run.prefill()
    run.decode(kept)
    run.decode(dropped)
    run.session.truncate(len(p.ids) + len(kept))
    theirs = tiny.logits(p, kept + after)[-len(after) :]
    assert worst(run.decode(after), theirs) < PART


def test_a_suffix_reads_new_tokens_of_another_row(tiny, ours):
    """A step and two scoring suffixes after it in one forward: the suffixes see the prompt and the
    step, written in this very forward, and not one another."""
    p = tiny.prompt("one image", seed=5)
    rng = np.random.default_rng(6)
    step, one, two = (rng.integers(0, 300, n).tolist() for n in (19, 5, 3))
    run = Runner(ours, p)
    run.prefill()
    at = len(p.ids)
    after = lambda n, skip: [run.next(skip + i) for i in range(n)]  # noqa: E731
    table, row = list(range(20)), _core.model.Row
    rows = [
        row(step, after(19, 0), table, at),
        row(one, after(5, 19), [30], 0, table, at + 19),
        row(two, after(3, 19), [31], 0, table, at + 19),
    ]
    logits = run.session.forward(rows, [(0, 18), (1, 0), (1, 4), (2, 2)])
    first = tiny.logits(p, step + one)
    second = tiny.logits(p, step + two)
    theirs = np.stack([first[at + 18], first[at + 19], first[-1], second[-1]])
    assert worst(logits, theirs) < PART
