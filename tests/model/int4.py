"""INT4 tensors as AutoAWQ and compressed-tensors store them, written from their published layouts,
and checkpoints whose linear layers are quantised so."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from checkpoints import make, one_by_one
from families import Tiny
from safetensors.torch import save_file

AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]
AWQ, PACKED = "awq", "pack-quantized"
LAYOUTS = {"awq": (AWQ, False), "asymmetric": (PACKED, False), "symmetric": (PACKED, True)}


@dataclass(frozen=True)
class Int4:
    """(q - z) * s in groups along k."""

    q: np.ndarray  # [n, k], 0..15
    z: np.ndarray  # [n, k / group], 0..15
    s: np.ndarray  # [n, k / group], float32 with the bits of a 16-bit float

    @property
    def group(self) -> int:
        return self.q.shape[1] // self.z.shape[1]

    def dense(self) -> np.ndarray:
        z, s = (np.repeat(a, self.group, axis=1) for a in (self.z, self.s))
        return (self.q - z).astype(np.float32) * s


def random_int4(n: int, k: int, group: int, symmetric: bool = False, seed: int = 0) -> Int4:
    rng = np.random.default_rng(seed)
    z = rng.integers(0, 16, (n, k // group))
    s = rng.uniform(0.001, 0.1, z.shape).astype(np.float16).astype(np.float32)
    return Int4(rng.integers(0, 16, (n, k)), np.full_like(z, 8) if symmetric else z, s)


def quantise(w: np.ndarray, group: int, symmetric: bool) -> Int4:
    """Round to nearest."""
    groups = w.reshape(w.shape[0], -1, group)
    low, high = groups.min(-1), groups.max(-1)
    if symmetric:
        low, high = -np.abs(groups).max(-1), np.abs(groups).max(-1)
    s = ((high - low) / 15).astype(np.float16).astype(np.float32)
    z = np.full(s.shape, 8) if symmetric else np.clip(np.rint(-low / s), 0, 15).astype(int)
    q = np.clip(np.rint(groups / s[..., None]) + z[..., None], 0, 15).astype(int)
    return Int4(q.reshape(w.shape), z, s)


def words(nibbles: np.ndarray) -> np.ndarray:
    """Eight consecutive columns to an int32, the first in the lowest bits."""
    n, k = nibbles.shape
    shifted = nibbles.reshape(n, k // 8, 8).astype(np.uint32) << np.arange(
        0, 32, 4, dtype=np.uint32
    )
    return np.bitwise_or.reduce(shifted, axis=-1).view(np.int32)


def awq_words(rows: np.ndarray) -> np.ndarray:
    """[n, k] -> [k, n / 8], every eight outputs in AWQ's order."""
    k = rows.shape[1]
    return words(rows.T.reshape(k, -1, 8)[:, :, AWQ_ORDER].reshape(k, -1))


def packed_zeros(z: np.ndarray) -> np.ndarray:
    """[n, groups] -> [ceil(n / 8), groups], packed along n."""
    padded = np.pad(z, ((0, -z.shape[0] % 8), (0, 0)))
    return np.ascontiguousarray(words(np.ascontiguousarray(padded.T)).T)


def tensors(name: str, w: Int4, layout: str, symmetric: bool) -> dict[str, torch.Tensor]:
    half = torch.from_numpy(w.s).to(torch.float16)
    if layout == AWQ:
        return {
            f"{name}.qweight": torch.from_numpy(awq_words(w.q)),
            f"{name}.qzeros": torch.from_numpy(awq_words(w.z)),
            f"{name}.scales": half.T.contiguous(),
        }
    out = {
        f"{name}.weight_packed": torch.from_numpy(words(w.q)),
        f"{name}.weight_scale": half,
        f"{name}.weight_shape": torch.tensor(w.q.shape),
    }
    if not symmetric:
        out[f"{name}.weight_zero_point"] = torch.from_numpy(packed_zeros(w.z))
    return out


def quantization_config(layout: str, group: int, symmetric: bool) -> dict:
    if layout == AWQ:
        return {
            "quant_method": "awq",
            "bits": 4,
            "group_size": group,
            "zero_point": True,
            "version": "gemm",
            "modules_to_not_convert": None,
        }
    weights = {
        "num_bits": 4,
        "type": "int",
        "symmetric": symmetric,
        "strategy": "group",
        "group_size": group,
        "dynamic": False,
    }
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "ignore": ["lm_head"],
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
    }


KEPT = (
    "embed",
    "lm_head",
    "mlp.gate.",
)  # tables, the head and the routers: in 16 bit, as published


def quantisable(name: str, tensor: torch.Tensor, layout: str, group: int) -> bool:
    if tensor.ndim != 2 or not name.endswith(".weight") or any(part in name for part in KEPT):
        return False
    n, k = tensor.shape
    return k % group == 0 and (layout == PACKED or n % 8 == 0)


def write_checkpoint(
    config: Path,
    weights: dict[str, torch.Tensor],
    to: Path,
    layout: str,
    symmetric: bool,
    group: int = 32,
) -> list[str]:
    """`weights` as a checkpoint whose linear layers are quantised where their shape allows; returns
    the names of those, and leaves them dequantised in `weights`."""
    state, quantised = {}, []
    for name, weight in weights.items():
        if not quantisable(name, weight, layout, group):
            state[name] = weight.clone()
            continue
        w = quantise(weight.numpy(), group, symmetric)
        state |= tensors(name.removesuffix(".weight"), w, layout, symmetric)
        weight.copy_(torch.from_numpy(w.dense()))
        quantised.append(name)
    to.mkdir()
    save_file(state, to / "model.safetensors")
    values = json.loads(config.read_text())
    values["quantization_config"] = quantization_config(layout, group, symmetric)
    (to / "config.json").write_text(json.dumps(values))
    return quantised


def make_quantised(family: str, layout: str, root: Path, **text) -> tuple[Path, Tiny, list[str]]:
    """The checkpoint of a family with experts one by one and groups of 32; transformers' model of
    its dequantised weights; the names of those. `text`: what differs in the text's config."""
    (root / "plain").mkdir()
    tiny = make(family, root / "plain", **text)
    spelled = (pair for item in tiny.tensors().items() for pair in one_by_one(*item))
    source = tiny.folder / "config.json"
    names = write_checkpoint(source, dict(spelled), root / "int4", *LAYOUTS[layout])
    return root / "int4", tiny, names
