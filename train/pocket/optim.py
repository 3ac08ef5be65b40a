"""Muon for matrices, AdamW for the rest."""

import torch
from torch import Tensor


def orthogonal(g: Tensor, steps: int = 5) -> Tensor:
    """The nearest matrix to g with singular values near 1, by Newton-Schulz iteration."""
    tall = g.shape[0] > g.shape[1]
    x = g.T if tall else g
    x = x / (x.norm() + 1e-7)
    for _ in range(steps):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x.T if tall else x


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised; scaled so that a learning rate for AdamW fits too."""

    def __init__(self, params, lr: float, momentum: float = 0.95, decay: float = 0.01) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "decay": decay})

    @torch.no_grad()
    def step(self, closure=None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                buffer = self.state[p].setdefault("momentum", torch.zeros_like(p))
                buffer.lerp_(p.grad, 1 - group["momentum"])
                update = orthogonal(p.grad.lerp(buffer, group["momentum"]))
                p.mul_(1 - group["lr"] * group["decay"])
                p.add_(update, alpha=-group["lr"] * 0.2 * max(p.shape) ** 0.5)


def optimisers(model: torch.nn.Module, heads: torch.nn.Module, lr: float):
    """Muon for the matrices inside the blocks, AdamW for embeddings, norms, biases and heads."""
    matrices, rest = [], []
    for name, p in model.named_parameters():
        inner = p.dim() == 2 and "embed" not in name
        (matrices if inner else rest).append(p)
    groups = [{"params": rest}, {"params": list(heads.parameters()), "heads": True}]
    return [Muon(matrices, lr), torch.optim.AdamW(groups, lr, betas=(0.9, 0.98), weight_decay=0.0)]
