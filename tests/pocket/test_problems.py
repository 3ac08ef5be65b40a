"""The pocket world: deterministic, split cleanly, and with an oracle that agrees with itself."""

import numpy as np
import pytest
from dream_r.pocket import problems
from dream_r.pocket.families import FAMILIES, Stated, write_step
from dream_r.pocket.problems import LEVELS, next_step, oracle, problem
from dream_r.pocket.speaker import Speaker


@pytest.mark.parametrize("level", LEVELS)
def test_the_same_seed_makes_the_same_problem(level):
    one, two = problem(11, level), problem(11, level)
    assert (one.question, one.answer, one.steps) == (two.question, two.answer, two.steps)
    assert np.array_equal(np.asarray(one.image), np.asarray(two.image))


def test_splits_share_no_picture_and_keep_some_predicates_back():
    seen = {
        split: {np.asarray(problem(s, 2, split=split).image).tobytes() for s in range(60)}
        for split in problems.SPLITS
    }
    assert all(len(pictures) == 60 for pictures in seen.values())
    assert len(set.union(*seen.values())) == 180
    asked = {
        split: {frozenset(problem(s, 2, split=split).scene.predicates) for s in range(150)}
        for split in ("train", "validation", "held-out")
    }
    kept = {p for p in asked["held-out"] if problems._held(tuple(p))}
    assert kept and not kept & asked["train"] and not kept & asked["validation"]


@pytest.mark.parametrize("level", LEVELS)
def test_oracle_walks_the_gold_steps(level):
    for seed in range(8):
        p = problem(seed, level, split="validation")
        for k, step in enumerate(p.steps):
            assert oracle(p, p.steps[:k]) == step and step.endswith(".\n\n")
        assert oracle(p, p.steps) == "</think>"


def test_oracle_goes_on_from_what_was_stated():
    p = problem(3, 1, "count")
    wrong = p.steps[1].rsplit(" so", 1)[0] + " so 3.\n\n"
    after = oracle(p, [p.steps[0], wrong, *p.steps[2:4]])
    assert after.split(": ")[1].startswith("3 +")


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_follow_from_the_picture(family):
    level = 1 if 1 in FAMILIES[family].asks else 2
    for seed in range(20):
        p = problem(seed, level, family)
        scene = p.scene
        counts = [
            [
                sum((int(c[1]) if family == "digits" else 1) for c in row if c and q in c)
                for row in scene.cells
            ]
            for q in scene.predicates
        ]
        totals = [sum(c) for c in counts]
        expected = {
            "count": totals[0],
            "digits": sum(totals),
            "sum": sum(totals),
            "most": int(np.argmax(counts[0])) + 1,
            "difference": abs(totals[0] - totals[-1]),
        }.get(family)
        if family == "compare":
            first = totals[0] > totals[1]
            expected = (
                "equal"
                if totals[0] == totals[1]
                else problems.noun(scene.predicates[0 if first else 1])
            )
        assert p.answer == str(expected)


def test_a_spoiled_step_has_one_wrong_word_and_goes_on_from_it():
    p, rng = problem(5, 2), np.random.default_rng(0)
    trial = Speaker()
    next_step(p.scene, p.steps[:1], trial)
    for k in range(trial.choices):
        say = Speaker((k,), rng.integers)
        write_step(say, p.scene, p.scene.kinds[1], Stated(p.scene, p.scene.kinds, p.steps[:1]))
        assert sum(w.right is not None and w.said != w.right for w in say.words) == 1


def test_noise_is_a_choice():
    clear, grainy = problem(1, 1, noise=0.0), problem(1, 1, noise=1.0)
    assert clear.noise == 0.0 and clear.question == grainy.question
    assert np.asarray(grainy.image).std() != np.asarray(clear.image).std()


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="split"):
        problem(1, 1, split="test")
    with pytest.raises(ValueError, match="level 1"):
        problem(1, 1, "compare")
