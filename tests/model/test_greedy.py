"""The shipped target writes what transformers writes, token for token: greedy.py, in small."""

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("dream_r._core")

import torch
from dream_r.checkpoint import resolve
from dream_r.messages import normalise
from dream_r.processor import Processor
from greedy import Reference, compare, problems


def test_greedy_tokens_are_those_of_transformers():
    torch.set_num_threads(1)
    for case in compare("pocket", problems(4), threads=1):
        assert case.at is None and case.ours == case.theirs and len(case.ours) > 60, case


def test_a_difference_is_found_and_measured(monkeypatch):
    """The reference is made to miss its last word: the check must say where, and by how much."""
    honest = Reference.write

    def wrong(self, read):
        wrote = honest(self, read)
        return [*wrote[:-1], wrote[-2]]

    monkeypatch.setattr(Reference, "write", wrong)
    (case,) = compare("pocket", problems(1), threads=1)
    assert case.at == len(case.ours) - 1 and case.gap < -1


def test_the_gap_is_that_of_the_next_words():
    checkpoint = resolve("pocket")
    reference = Reference(str(checkpoint.folder))
    p = problems(1)[0]
    parts = [{"type": "image"}, {"type": "text", "text": p.question}]
    read = Processor(checkpoint).encode(*normalise([{"role": "user", "content": parts}], [p.image]))
    first = reference.write(read)[:1]
    assert reference.gap(read, [], first[0], 5) > 0 > reference.gap(read, [], 5, first[0])
