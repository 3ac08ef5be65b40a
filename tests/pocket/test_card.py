"""Model cards from evaluations: all figures, none twice, none of another pair."""

import pytest

pytest.importorskip("torch")

from train.pocket.card import ROWS, merged, render


def evaluation(level, solved, alpha=0.7):
    figure = dict.fromkeys(ROWS, 0.5) | {"target_solves": solved, "n": 3}
    figure |= {"draft_mistakes": {"matching": 1.0}, "target_by_family": {"sum": solved}}
    parameters = {"target": 5_000_000, "draft": 500_000}
    return {
        "split": "held-out",
        "alpha": alpha,
        "parameters": parameters,
        "figures": {f"level {level}": figure},
    }


def test_a_card_holds_the_figures_of_all_evaluations():
    text = render("target", merged([evaluation(3, 0.25), evaluation(1, 0.75)]))
    assert "| | level 1 | level 3 |" in text and "| target alone solves | 0.75 | 0.25 |" in text
    assert "5,000,000" in text and "sum on level 3 0.25" in text
    assert "level 1: matching 100%; level 3: matching 100%" in text


def test_what_does_not_belong_together_is_refused():
    with pytest.raises(ValueError, match="same level"):
        merged([evaluation(1, 0.5), evaluation(1, 0.6)])
    with pytest.raises(ValueError, match="differ in split"):
        merged([evaluation(1, 0.5), evaluation(2, 0.5, alpha=0.9)])
