"""A short form of equality.py: the long one is run by hand."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import equality


@pytest.mark.parametrize("dtype", equality.DTYPES)
def test_nothing_accepted_is_the_target_alone(dtype: str) -> None:
    assert equality.run("pocket", "pocket-draft", 48, 0, dtype, per_setting=6) == 0


def test_the_comparison_can_fail() -> None:
    """With everything accepted the draft writes, and the comparison says so."""
    wanted = equality.requests(range(8))
    expected = equality.plain("pocket", "pocket-draft", "bf16", wanted)
    with equality.Setting().engine("pocket", "pocket-draft", "fpsr", 0.0) as engine:
        assert equality.texts(engine, wanted) != expected
