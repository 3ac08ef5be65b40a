"""i16 against transformers.

Weights and the inputs of linear layers are whole numbers here, up to 5792 (in groups of 64) or
8191 (32) times a scale; the KV cache is bf16, all else f32. `Rounded` makes transformers round at
the same places. What is left is the order of f32 sums: about 1e-6 of a value. Of the numbers, one
in a few hundred is so near an edge that this moves it by a whole step, S = 1/5792 of its group's
largest: in root mean square sqrt(1e-6 * S), about 1e-5. One in a few hundred keys and values then
rounds to the other side, by up to u = 2^-8 of itself: sqrt(1e-5 * u), about 2e-4. A logit's range
is some six times its root mean square, and a few layers add up: most logits must agree within S of
the range, and no logit may be off by as much as u, as if a single flip had been all of it.

That is not far below what the roundings themselves do, so one that transformers lacks must show as
the larger distance.
"""

import numpy as np
import pytest
import torch
from cases import NAMES, Runner, worst
from dream_r import _core
from rounded import Rounded, bf16

U, S = 2.0**-8, 1 / 5792


def i16(x: torch.Tensor) -> torch.Tensor:
    group, most = (64, 5792) if x.shape[-1] % 64 == 0 else (32, 8191)
    groups = torch.nn.functional.pad(x, (0, -x.shape[-1] % group)).unflatten(-1, (-1, group))
    largest = groups.abs().amax(-1, keepdim=True)
    numbers = torch.where(largest > 0, groups * (most / largest), 0).round()
    return (numbers * (largest / most)).flatten(-2)[..., : x.shape[-1]]


def plain(x: torch.Tensor) -> torch.Tensor:
    return x


@pytest.fixture(scope="module")
def ours(tiny):
    return _core.model.load(str(tiny.folder), "i16")


@pytest.fixture(scope="module")
def rounded(tiny):
    return Rounded(tiny, weights=i16, inputs=i16, cache=bf16)


def distance(ours, theirs) -> float:
    """That half of the logits keeps within, as a part of their range."""
    return float(np.median(np.abs(ours - theirs)) / (theirs.max() - theirs.min()))


@pytest.mark.parametrize("name", NAMES)
def test_same_roundings(tiny, ours, rounded, name):
    p = tiny.prompt(name)
    logits, theirs = Runner(ours, p).prefill(), rounded.logits(p)
    assert worst(logits, theirs) < U
    assert distance(logits, theirs) < S


@pytest.mark.parametrize("lacks", ["weights", "inputs", "cache"])
def test_every_rounding_is_there(tiny, ours, rounded, lacks):
    all_of_them = {"weights": i16, "inputs": i16, "cache": bf16}
    fewer = Rounded(tiny, **{**all_of_them, lacks: plain})
    prompts = [tiny.prompt("text", seed, text=40) for seed in range(4)]
    logits = np.stack([Runner(ours, p).prefill() for p in prompts])
    near, far = (np.stack([m.logits(p) for p in prompts]) for m in (rounded, fewer))
    assert distance(logits, near) < distance(logits, far)


@pytest.mark.parametrize("name", NAMES)
def test_near_f32(tiny, ours, name):
    """A number is off by half a step, that is S / 2 of a largest that is at most sqrt(64) times
    the group's root mean square, and keys and values are by u / 2 of themselves. A logit has
    passed as many roundings as test_bf16.py counts: taken as independent, they add in squares."""
    p = tiny.prompt(name)
    logits, theirs = Runner(ours, p).prefill(), tiny.logits(p)
    layers = tiny.config.text_config.num_hidden_layers
    numbers = 8 * layers + 2
    numbers += 6 * tiny.vision_layers + 4 if p.grids else 0
    limit = (numbers * (4 * S) ** 2 + 2 * layers * (U / 2) ** 2) ** 0.5
    rms = lambda x: float(np.sqrt(np.mean(np.square(x))))  # noqa: E731
    assert rms(logits - theirs) < limit * rms(theirs)
