"""Fused CPU kernels for training (fast.c), compiled on first use; PyTorch where that fails.

At these sizes PyTorch's chains of small operations cost more than the matrix products.
"""

import ctypes
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import torch
from torch import Tensor


@cache
def library() -> ctypes.CDLL | None:
    """The compiled kernels, or None without a C compiler (then PyTorch does the work)."""
    made = Path(tempfile.mkdtemp(prefix="pocket-")) / "fast.so"
    command = [
        "cc",
        "-O3",
        "-march=native",
        "-ffast-math",
        "-fopenmp",
        "-shared",
        "-fPIC",
        str(Path(__file__).with_name("fast.c")),
        "-o",
        str(made),
        "-lm",
    ]
    try:
        subprocess.run(command, check=True, capture_output=True)
        return ctypes.CDLL(str(made))
    except (OSError, subprocess.CalledProcessError):
        return None


def usable(x: Tensor) -> bool:
    """Whether the kernels serve for x: training in float32 on a CPU."""
    fits = x.device.type == "cpu" and x.dtype == torch.float32
    return fits and torch.is_grad_enabled() and library() is not None


def call(name: str, *arguments) -> None:
    """Call a kernel: tensors go as pointers, ints as int, floats as float.

    Counts that may pass 2^31 are given as ctypes.c_long by the caller.
    """
    plain = []
    for a in arguments:
        if isinstance(a, Tensor):
            if not a.is_contiguous():
                raise ValueError(f"{name} wants contiguous tensors")
            plain.append(ctypes.c_void_p(a.data_ptr()))
        else:
            plain.append(ctypes.c_float(a) if isinstance(a, float) else a)
    getattr(library(), name)(*plain)


class Attend(torch.autograd.Function):
    """softmax(q k^T) v under a tree mask given as two ranges; q [B, H, S, 32], k, v [B, K, S, 32].

    Probabilities are made again on the way back: that is cheaper than keeping them.
    """

    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor, anchor: Tensor, lo: Tensor) -> Tensor:
        out, lse = torch.empty_like(q), q.new_empty(q.shape[:-1])
        sizes = q.shape[0], q.shape[1], k.shape[1], q.shape[2]
        call("attend_forward", q, k, v, anchor, lo, out, lse, *sizes)
        ctx.save_for_backward(q, k, v, anchor, lo, lse)
        ctx.sizes = sizes
        return out

    @staticmethod
    def backward(ctx, grad: Tensor):
        q, k, v, anchor, lo, lse = ctx.saved_tensors
        dq, dk, dv = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        call("attend_backward", q, k, v, anchor, lo, lse, grad.contiguous(), dq, dk, dv, *ctx.sizes)
        return dq, dk, dv, None, None


class Norm(torch.autograd.Function):
    """RMSNorm over the last axis."""

    @staticmethod
    def forward(ctx, x: Tensor, w: Tensor) -> Tensor:
        x = x.contiguous()
        y, r = torch.empty_like(x), x.new_empty(x.shape[:-1])
        call("rms_forward", x, w, y, r, ctypes.c_long(r.numel()), x.shape[-1])
        ctx.save_for_backward(x, w, r)
        return y

    @staticmethod
    def backward(ctx, dy: Tensor):
        x, w, r = ctx.saved_tensors
        dx, dw = torch.empty_like(x), torch.zeros_like(w)
        call(
            "rms_backward", x, w, r, dy.contiguous(), dx, dw, ctypes.c_long(r.numel()), x.shape[-1]
        )
        return dx, dw


class NormRotate(torch.autograd.Function):
    """QK-norm, rotary embedding and the move of heads: [B, S, H, d] -> [B, H, S, d]."""

    @staticmethod
    def forward(ctx, x: Tensor, w: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        batch, length, heads, width = x.shape
        y, r = x.new_empty(batch, heads, length, width), x.new_empty(batch, length, heads)
        call("rope_forward", x, w, cos, sin, y, r, batch, length, heads, width)
        ctx.save_for_backward(x, w, cos, sin, r)
        return y

    @staticmethod
    def backward(ctx, dy: Tensor):
        x, w, cos, sin, r = ctx.saved_tensors
        dx, dw = torch.empty_like(x), torch.zeros_like(w)
        call("rope_backward", x, w, cos, sin, r, dy.contiguous(), dx, dw, *x.shape)
        return dx, dw, None, None


class SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx, gate: Tensor, up: Tensor) -> Tensor:
        y = torch.empty_like(gate)
        call("swiglu_forward", gate, up, y, ctypes.c_long(gate.numel()))
        ctx.save_for_backward(gate, up)
        return y

    @staticmethod
    def backward(ctx, dy: Tensor):
        gate, up = ctx.saved_tensors
        dgate, dup = torch.empty_like(gate), torch.empty_like(up)
        call("swiglu_backward", gate, up, dy.contiguous(), dgate, dup, ctypes.c_long(gate.numel()))
        return dgate, dup
