"""Four-bit matrices in groups, and AutoAWQ's "gemm" layout of them.

w = (q - z) * s with q and z in 0..15; one z and one s for `group` inputs of an output.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

LEVELS = 15
ORDER = (0, 2, 4, 6, 1, 3, 5, 7)  # the nibble at bits 4i of a word is output 8c + ORDER[i]


@dataclass(frozen=True)
class Quantised:
    """q [n, k], z [n, k / group], s f16 [n, k / group]."""

    q: Tensor
    z: Tensor
    s: Tensor

    def values(self) -> Tensor:
        """The weights that a reader computes with, f32 [n, k]."""
        n, groups = self.z.shape
        q = self.q.view(n, groups, -1).float()
        return ((q - self.z[..., None]) * self.s[..., None].float()).view(n, -1)

    def tensors(self) -> dict[str, Tensor]:
        """qweight [k, n/8], qzeros [k / group, n/8], scales [k / group, n]."""
        return {
            "qweight": pack(self.q.T),
            "qzeros": pack(self.z.T),
            "scales": self.s.T.contiguous(),
        }


def quantise(w: Tensor, group: int, limit: Tensor | None = None) -> Quantised:
    """Round to the nearest of 16 values between each group's least and largest.

    `limit` [n, k / group] shrinks both ends; zero always stays one of the values.
    """
    n, k = w.shape
    cut = w.float().view(n, k // group, group)
    high, low = cut.amax(-1).clamp(min=0), cut.amin(-1).clamp(max=0)
    if limit is not None:
        high, low = high * limit, low * limit
    # f16 first: q is then the best for the scale that is stored. 6e-8 is f16's least number.
    s = ((high - low) / LEVELS).clamp(min=1e-6).half()
    z = torch.round(-low / s.float()).clamp(0, LEVELS)
    q = (torch.round(cut / s.float()[..., None]) + z[..., None]).clamp(0, LEVELS)
    return Quantised(q.view(n, k).to(torch.uint8), z.to(torch.uint8), s)


def pack(values: Tensor) -> Tensor:
    """Eight 4-bit values of a row in each int32, in gemm's order."""
    rows, n = values.shape
    eights = values.reshape(rows, n // 8, 8).to(torch.int64)
    words = sum(eights[..., output] << 4 * i for i, output in enumerate(ORDER))
    assert isinstance(words, Tensor)
    return torch.where(words >= 2**31, words - 2**32, words).to(torch.int32).contiguous()
