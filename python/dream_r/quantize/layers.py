"""A layer of a Qwen text model: its linears, what feeds them, and its quantisation as a whole."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping

from torch import Tensor

from dream_r.quantize.gemm import quantise
from dream_r.quantize.search import best_limits, best_scales

# The linears that read the same input, by the name of that input's first reader.
READERS = {
    "self_attn.q_proj": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "self_attn.o_proj": ("self_attn.o_proj",),
    "mlp.gate_proj": ("mlp.gate_proj", "mlp.up_proj"),
    "mlp.down_proj": ("mlp.down_proj",),
}
LINEARS = tuple(name for names in READERS.values() for name in names)
# Clipping the two would change attention scores, which softmax makes large (as in the paper).
NOT_CLIPPED = ("self_attn.q_proj", "self_attn.k_proj")
# What makes each input, and so takes the inverse of its scales: a norm, or rows of a linear.
MAKERS = {
    "self_attn.q_proj": "input_layernorm",
    "self_attn.o_proj": "self_attn.v_proj",
    "mlp.gate_proj": "post_attention_layernorm",
    "mlp.down_proj": "mlp.up_proj",
}


def quantise_layer(
    tensors: MutableMapping[str, Tensor], inputs: Mapping[str, Tensor], group: int, head: int
) -> None:
    """Replace a layer's linears by 4-bit ones, in place; norms that take scales become f32.

    `tensors`: "mlp.up_proj.weight" and so on; `inputs`: rows seen by each of READERS, f32;
    `head`: the width of an attention head.
    """
    weights = {name: tensors[f"{name}.weight"].float() for name in LINEARS}
    heads = weights["self_attn.v_proj"].shape[0] // head, head
    seen = dict(inputs)
    for first, maker in MAKERS.items():
        scale = _scale(weights, seen[first], first, group, heads)
        for name in READERS[first]:
            weights[name] = weights[name] * scale
        seen[first] = seen[first] / scale
        made = _first_of_heads(scale, heads) if maker == "self_attn.v_proj" else scale
        if maker in weights:
            weights[maker] = weights[maker] / made[:, None]
            if (bias := f"{maker}.bias") in tensors:
                tensors[bias] = tensors[bias].float() / made
        else:
            tensors[f"{maker}.weight"] = tensors[f"{maker}.weight"].float() / made
    for first, names in READERS.items():
        for name in names:
            limit = None if name in NOT_CLIPPED else best_limits(seen[first], weights[name], group)
            del tensors[f"{name}.weight"]
            for kind, tensor in quantise(weights[name], group, limit).tensors().items():
                tensors[f"{name}.{kind}"] = tensor


def _scale(
    weights: Mapping[str, Tensor], x: Tensor, first: str, group: int, heads: tuple[int, int]
) -> Tensor:
    readers = [weights[name] for name in READERS[first]]
    if first == "self_attn.o_proj":
        return best_scales(x, readers, group, lambda v: _mean_of_heads(v, heads))
    return best_scales(x, readers, group)


def _mean_of_heads(values: Tensor, heads: tuple[int, int]) -> Tensor:
    """One value for all query heads that read the same value head (grouped-query attention)."""
    cut = values.view(heads[0], -1, heads[1])
    return cut.mean(1, keepdim=True).expand_as(cut).reshape(-1)


def _first_of_heads(values: Tensor, heads: tuple[int, int]) -> Tensor:
    return values.view(heads[0], -1, heads[1])[:, 0].reshape(-1)


def largest_group(widths: set[int], wanted: int) -> int:
    """The largest group size up to `wanted` that divides the inputs of every linear."""
    for group in (128, 64, 32):
        if group <= wanted and all(width % group == 0 for width in widths):
            return group
    odd = ", ".join(map(str, sorted(widths)))
    raise ValueError(f"no group of {wanted} or less (128, 64, 32) divides the widths {odd}")
