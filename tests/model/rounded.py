"""transformers with the roundings of our dtypes put in by hand."""

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from cases import Prompt
from families import Tiny
from transformers import DynamicCache

Rounding = Callable[[torch.Tensor], torch.Tensor]  # of f32, along the last axis


def bf16(x: torch.Tensor) -> torch.Tensor:
    return x.to(torch.bfloat16).to(torch.float32)


class RoundedCache(DynamicCache):
    def __init__(self, rounding: Rounding):
        super().__init__()
        self.rounding = rounding

    def update(self, key_states, value_states, *args, **kwargs):
        k, v = self.rounding(key_states), self.rounding(value_states)
        return super().update(k, v, *args, **kwargs)


class Rounded:
    """A model whose linear layers round their weights and inputs, and whose KV cache is rounded.

    The table of tokens and convolutions (linear layers of their patches) are rounded too; the
    choice of experts is plain f32.
    """

    def __init__(self, tiny: Tiny, weights: Rounding, inputs: Rounding, cache: Rounding):
        self.tiny, self.weights, self.inputs, self.cache = tiny, weights, inputs, cache
        self.model = copy.deepcopy(tiny.reference)
        self.routers = [m.weight for n, m in self.model.named_modules() if n.endswith("mlp.gate")]
        self.plain = torch.nn.functional.linear
        table = self.model.model.language_model.embed_tokens
        table.weight = torch.nn.Parameter(weights(table.weight.detach()))

    def logits(self, p: Prompt) -> np.ndarray:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.nn.functional, "linear", self.linear)
            for kind in (torch.nn.Conv2d, torch.nn.Conv3d):
                patch.setattr(kind, "forward", lambda layer, x: self.convolution(layer, x))
            return self.tiny.logits(p, cache=RoundedCache(self.cache), model=self.model)

    def linear(self, x, weight, bias=None):
        if any(weight is router for router in self.routers):
            return self.plain(x, weight, bias)
        return self.plain(self.inputs(x), self.weights(weight), bias)

    def convolution(self, layer, x: torch.Tensor) -> torch.Tensor:
        kernel = layer.kernel_size
        assert layer.stride == kernel
        for axis, size in enumerate(kernel, start=2):
            x = x.unfold(axis, size, size)  # the places on the axis; those in a patch go last
        patches = x.movedim(1, -1 - len(kernel)).flatten(-1 - len(kernel))
        return self.linear(patches, layer.weight.flatten(1), layer.bias).movedim(-1, 1)
