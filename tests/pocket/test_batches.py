"""What the training batches teach: hints, drills, and which words are deduced."""

import numpy as np
import pytest
from dream_r.pocket.problems import next_step
from dream_r.pocket.speaker import Speaker
from dream_r.pocket.words import NEGATIVE, POSITIVE, SUFFIX

torch = pytest.importorskip("torch")

from train.pocket.data import Mix, collate, deduced, encode, same_size, tokens  # noqa: E402


def spoken(problem, rng, spoil=0):
    """The words of every step, `spoil` of each step's choices taken wrongly."""
    for k in range(len(problem.steps)):
        say = Speaker({int(i) for i in rng.integers(0, 4, spoil)}, rng.integers)
        next_step(problem.scene, problem.steps[:k], say)
        yield say.words


def test_hints_lead_to_the_next_word():
    rng = np.random.default_rng(1)
    seen = {"next": 0, "sign": 0}
    for p in same_size(range(30), 3, families=("digits", "compare"), rng=rng):
        for words in spoken(p, rng, spoil=1):
            cells = {w.cell[1]: w.said for w in words if w.cell}  # the last of a cell: its digit
            for k, word in enumerate(words):
                if not word.hint:
                    continue
                what, value = word.hint
                seen[what] += 1
                if what == "next" and word.right is not None:
                    assert words[k + 1].right in (cells[value], " 1")  # an empty cell counts 1
                if what == "sign":
                    first, second = (int(w.said) for w in words if w.said.strip().isdigit())
                    assert value - 1 == np.sign(first - second)
    assert min(seen.values()) > 20


def test_drills_are_judged_by_the_oracle_and_taught_to_go_on():
    rng = np.random.default_rng(2)
    some = same_size(range(8), 2)
    batch = collate(some, rng, Mix(spoil=0.0, stray=0.0, drills=6))
    verdicts = []
    for row, p in enumerate(some):
        trunk = len(p.steps) + 1  # judged once each, the end of thinking too
        ends = (batch.judged[row] >= 0).nonzero()[trunk:, 0].tolist()
        assert len(ends) == 6
        for end in ends:
            begin = int(batch.mask.lo[row, end])
            said = batch.ids[row, begin : end + 1 - len(encode(SUFFIX))].tolist()
            good = int(batch.judged[row, end]) == encode(POSITIVE)[0]
            assert good == (tokens().decode(said) in p.steps)
            taught = batch.target[row, begin : begin + len(said) - 1].tolist()
            assert not good or taught == said[1:]
            verdicts.append(good)
    assert 5 < sum(verdicts) < len(verdicts) - 5


def test_confused_steps_are_wrong_by_their_predicate_alone():
    rng = np.random.default_rng(3)
    some = same_size(range(12), 2, families=("compare", "sum"), rng=rng)
    plain, more = (
        collate(some, np.random.default_rng(0), Mix(spoil=0.0, stray=0.0, confused=share))
        for share in (0.0, 1.0)
    )
    for row, p in enumerate(some):
        asked = [int((b.judged[row] >= 0).sum()) for b in (plain, more)]
        assert asked[1] - asked[0] == (3 if p.family == "compare" else 1)
        for end in (more.judged[row] >= 0).nonzero()[asked[0] :, 0].tolist():
            begin = int(more.mask.lo[row, end])
            said = tokens().decode(more.ids[row, begin : end + 1 - len(encode(SUFFIX))].tolist())
            assert int(more.judged[row, end]) == encode(NEGATIVE)[0]
            (like,) = (s for s in p.steps if s.split()[0] == said.split()[0] != "Row")
            assert said != like and said.split()[:3] == like.split()[:3]


def test_deduced_words_are_numbers_and_conclusions():
    ids = torch.tensor([[encode(w)[0] for w in (" +", " so", " more", " more", " a")]])
    target = torch.tensor([[encode(w)[0] for w in (" 3", " equal", " red", " blue", " red")]])
    target[0, 3] = -100
    assert deduced(ids, target).tolist() == [[True, True, True, False, False]]
