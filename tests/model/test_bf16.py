"""bf16 against transformers.

Weights, the inputs of linear layers and the KV cache are bf16 here, all else is f32 (the choice of
experts too). `Rounded` makes transformers round at the same places. What is left is the order of
f32 sums: it moves a value by about 1e-6 of itself and so, now and then, over a rounding edge, which
changes that one value by up to u = 2^-8 of itself. So most logits must agree far below u of their
range; behind an image, a few flips deep in the vision tower may have met: all agree within 2 u.

Against plain f32 the roundings do not cancel: each is a relative error below u, and a logit has
passed about 8 a text layer (and 6 a vision layer where there is an image). Taken as independent and
passed on at most undamped, they add to u * sqrt(their number) in root mean square.
"""

import numpy as np
import pytest
from cases import NAMES, Runner, worst
from dream_r import _core
from rounded import Rounded, bf16

U = 2.0**-8


@pytest.fixture(scope="module")
def ours(tiny):
    return _core.model.load(str(tiny.folder), "bf16")


@pytest.fixture(scope="module")
def rounded(tiny):
    return Rounded(tiny, bf16, bf16, bf16)


@pytest.mark.parametrize("name", NAMES)
def test_same_roundings(tiny, ours, rounded, name):
    p = tiny.prompt(name)
    logits = Runner(ours, p).prefill()
    theirs = rounded.logits(p)
    assert worst(logits, theirs) < 2 * U
    off = np.abs(logits - theirs) / (theirs.max() - theirs.min())
    assert np.median(off) < U / 8


@pytest.mark.parametrize("name", NAMES)
def test_near_f32(tiny, ours, name):
    p = tiny.prompt(name)
    logits, theirs = Runner(ours, p).prefill(), tiny.logits(p)
    roundings = 8 * tiny.config.text_config.num_hidden_layers + 2
    roundings += 6 * tiny.vision_layers + 4 if p.grids else 0
    rms = lambda x: float(np.sqrt(np.mean(np.square(x))))  # noqa: E731
    assert rms(logits - theirs) < U * roundings**0.5 * rms(theirs)


def test_weights_take_half_the_memory(tiny, ours):
    whole = _core.model.load(str(tiny.folder), "f32").weight_bytes
    assert 0.5 <= ours.weight_bytes / whole < 0.6  # norms, biases and vision positions stay f32
