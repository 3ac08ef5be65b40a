"""Activation-aware scales (arXiv 2306.00978): inputs that matter get finer steps.

A scale s per input makes the weights W * s and the inputs x / s: the same product, but rounding
W * s hurts the inputs with a large s less. Every search minimises the error of the outputs on the
inputs seen, and plain rounding is among its candidates: it never ends up worse on them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from dream_r.quantize.gemm import quantise

RATIOS = 20
SHRINKS = 10  # of 5 % each: the ends of a group move in by half at most


def output_error(x: Tensor, w: Tensor, rounded: Tensor) -> float:
    """Summed square of the difference at the outputs; x [rows, k], w [n, k]."""
    return float((x @ (w - rounded).T).square().sum())


def best_scales(
    x: Tensor,
    weights: Sequence[Tensor],
    group: int,
    tie: Callable[[Tensor], Tensor] = lambda values: values,
) -> Tensor:
    """The scales [k] of the inputs x of `weights`: powers of the mean input over the mean weight.

    `tie` makes values [k] equal where the scales must be (inputs that one producer makes).
    """
    best = torch.ones(x.shape[1])
    least = _error(x, weights, best, group)
    seen, size = tie(x.abs().mean(0)), tie(_relative_size(weights, group))
    for step in range(RATIOS):
        ratio = step / RATIOS
        s = (seen.pow(ratio) / (size.pow(1 - ratio) + 1e-4)).clamp(min=1e-4)
        s = s / (s.max() * s.min()).sqrt()
        if torch.isfinite(s).all() and (error := _error(x, weights, s, group)) < least:
            best, least = s, error
    return best


def _error(x: Tensor, weights: Sequence[Tensor], s: Tensor, group: int) -> float:
    return sum(output_error(x, w, quantise(w * s, group).values() / s) for w in weights)


def _relative_size(weights: Sequence[Tensor], group: int) -> Tensor:
    """Mean over the outputs of each weight's size relative to its group's largest, [k]."""
    w = torch.cat(list(weights)).abs()
    cut = w.view(w.shape[0], -1, group)
    return (cut / cut.amax(-1, keepdim=True).clamp(min=1e-6)).view(w.shape).mean(0)


def best_limits(x: Tensor, w: Tensor, group: int) -> Tensor:
    """How far to move the ends of each group in, [n, k / group] in 0.5..1."""
    n, k = w.shape
    inputs = x.view(x.shape[0], k // group, group).transpose(0, 1)
    gram = inputs.transpose(1, 2) @ inputs  # [groups, group, group]

    def error(limit: Tensor) -> Tensor:
        off = (quantise(w, group, limit).values() - w).view(n, k // group, group).transpose(0, 1)
        return ((off @ gram) * off).sum(-1).T

    best = torch.ones(n, k // group)
    least = error(best)
    for step in range(1, SHRINKS + 1):
        limit = torch.full_like(best, 1 - 0.05 * step)
        found = error(limit)
        best = torch.where(found < least, limit, best)
        least = torch.minimum(found, least)
    return best
