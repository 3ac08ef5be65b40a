from types import SimpleNamespace

import pytest
from dream_r.report import COLUMNS, Arm, factors, paired_difference, ratio_interval, rows


def arm(name, seconds, right, tokens, accepted=0, rejected=0):
    made = Arm(name, "1 of 1 cores")
    for s, r in zip(seconds, right, strict=True):
        metrics = SimpleNamespace(
            accepted=accepted,
            rejected=rejected,
            tokens_wasted=10,
            draft_tokens=30,
            target_tokens=20,
        )
        made.add(
            SimpleNamespace(usage=SimpleNamespace(completion_tokens=tokens), metrics=metrics), r, s
        )
    return made


def test_factors():
    base = arm("ar", [2.0, 4.0], [True, True], 100)
    fast = arm("fpsr", [1.0, 2.0], [True, False], 80, accepted=3, rejected=1)
    f = factors(base, fast)
    assert (f.wall, f.tokens, f.acceptance, f.ceiling) == (2.0, 1.25, 0.75, 4.0)
    assert f.attained == 0.5
    assert f.wasted_share == 0.2
    assert (f.accuracy, f.difference) == (0.5, -0.5)
    assert f.difference_low < -0.5 < f.difference_high
    assert factors(base, base).acceptance is None
    with pytest.raises(ValueError, match="same problems"):
        factors(base, Arm("none", ""))


def test_table_rows():
    base = arm("ar", [2.0], [True], 100)
    table = rows(base, [arm("fpsr", [1.0], [True], 100, accepted=4)])
    assert all(len(row) == len(COLUMNS) for row in table)
    assert table[0][COLUMNS.index("acceptance")] == "-"
    assert table[1][COLUMNS.index("ceiling")] == "unbounded"
    assert table[1][COLUMNS.index("wall clock")] == "2.00x"


def test_paired_interval():
    low, middle, high = paired_difference([True] * 1000, [True] * 1000)
    assert middle == 0
    assert -0.004 < low < 0 < high < 0.004
    low, middle, high = paired_difference([True] * 100, [True] * 80 + [False] * 20)
    assert low < -0.2 < high < 0
    assert middle == -0.2


def test_ratio_interval():
    assert ratio_interval([2.0, 2.0], [1.0, 1.0]) == (2.0, 2.0)
    low, high = ratio_interval([2.0, 3.0, 1.0], [1.0, 1.0, 1.0])
    assert low < 2 < high
