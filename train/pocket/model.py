"""Qwen3-VL in plain PyTorch, for training: the parameters carry transformers' names.

Shapes: B problems, S text tokens, P patches a picture, N = P / 4 visual tokens, D hidden.
All pictures of a batch have the same size, so no ragged bookkeeping is needed.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from train.pocket import fast
from train.pocket.shapes import Shape


@dataclass(frozen=True)
class Tree:
    """Who may look where, in two ranges: columns [0, anchor] and [lo, own]; int32 [B, S] each."""

    anchor: Tensor
    lo: Tensor

    def dense(self, dtype: torch.dtype) -> Tensor:
        """0 where a token may look, -inf elsewhere; [B, 1, 1, S, S]."""
        at = torch.arange(self.anchor.shape[1], device=self.anchor.device)
        own = (at >= self.lo[..., None]) & (at <= at[:, None])
        bias = torch.zeros(own.shape, dtype=dtype, device=own.device)
        return bias.masked_fill(~(own | (at <= self.anchor[..., None])), -math.inf)[:, None, None]


class RMSNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        if fast.usable(x):
            return fast.Norm.apply(x, self.weight)
        return F.rms_norm(x, x.shape[-1:], self.weight, 1e-6)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding; x [..., S, d], cos and sin [..., S, d/2]."""
    a, b = x.chunk(2, -1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)


class VisionBlock(nn.Module):
    def __init__(self, s: Shape) -> None:
        super().__init__()
        self.heads = s.vision_heads
        self.norm1 = nn.LayerNorm(s.vision, eps=1e-6)
        self.norm2 = nn.LayerNorm(s.vision, eps=1e-6)
        self.attn = nn.ModuleDict(
            {"qkv": nn.Linear(s.vision, 3 * s.vision), "proj": nn.Linear(s.vision, s.vision)}
        )
        self.mlp = nn.ModuleDict(
            {
                "linear_fc1": nn.Linear(s.vision, s.vision_ffn),
                "linear_fc2": nn.Linear(s.vision_ffn, s.vision),
            }
        )

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        batch, patches, width = x.shape
        qkv = self.attn["qkv"](self.norm1(x)).view(batch, patches, 3, self.heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        weights = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1)
        x = x + self.attn["proj"]((weights @ v).transpose(1, 2).reshape(batch, patches, width))
        hidden = F.gelu(self.mlp["linear_fc1"](self.norm2(x)), approximate="tanh")
        return x + self.mlp["linear_fc2"](hidden)


class Merger(nn.Module):
    """Four neighbouring patches become one visual token of the language model's width."""

    def __init__(self, s: Shape, post: bool) -> None:
        super().__init__()
        self.post, self.wide = post, 4 * s.vision
        self.norm = nn.LayerNorm(self.wide if post else s.vision, eps=1e-6)
        self.linear_fc1 = nn.Linear(self.wide, self.wide)
        self.linear_fc2 = nn.Linear(self.wide, s.hidden)

    def forward(self, x: Tensor) -> Tensor:
        grouped = (x.shape[0], x.shape[1] // 4, self.wide)
        x = self.norm(x.reshape(grouped)) if self.post else self.norm(x).reshape(grouped)
        return self.linear_fc2(F.gelu(self.linear_fc1(x)))


class Vision(nn.Module):
    def __init__(self, s: Shape) -> None:
        super().__init__()
        self.shape = s
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv3d(3, s.vision, (2, 16, 16), (2, 16, 16))})
        self.pos_embed = nn.Embedding(s.side**2, s.vision)
        self.blocks = nn.ModuleList(VisionBlock(s) for _ in range(s.vision_layers))
        self.merger = Merger(s, post=False)
        self.deepstack_merger_list = nn.ModuleList(Merger(s, post=True) for _ in s.deepstack)
        self._grids: dict[tuple[int, int], tuple[Tensor, ...]] = {}

    def grid(self, height: int, width: int) -> tuple[Tensor, ...]:
        """For a picture of height x width patches, in merge-block order: four position rows and
        their weights [P, 4], rotary cos and sin [P, d/2]."""
        if (height, width) not in self._grids:
            rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
            order = (height // 2, 2, width // 2, 2)
            rows, columns = (t.reshape(order).transpose(1, 2).flatten() for t in (rows, columns))
            side = self.shape.side
            y, x = rows * ((side - 1) / (height - 1)), columns * ((side - 1) / (width - 1))
            taps, weights = [], []
            for up in (0, 1):
                for left in (0, 1):
                    ty, tx = (
                        (y.floor() + up).clamp(max=side - 1),
                        (x.floor() + left).clamp(max=side - 1),
                    )
                    taps.append((ty * side + tx).long())
                    weights.append(
                        (1 - (y - y.floor() - up).abs()) * (1 - (x - x.floor() - left).abs())
                    )
            half = self.shape.vision // self.shape.vision_heads // 2
            inv = 10_000.0 ** -(torch.arange(0, half, 2).float() / half)
            angles = torch.cat((rows[:, None] * inv, columns[:, None] * inv), -1)
            self._grids[height, width] = (
                torch.stack(taps, 1),
                torch.stack(weights, 1),
                angles.cos(),
                angles.sin(),
            )
        return self._grids[height, width]

    def forward(self, patches: Tensor, height: int, width: int) -> tuple[Tensor, list[Tensor]]:
        """patches [B, P, 1536] -> visual tokens [B, N, D] and one more such per DeepStack layer."""
        taps, weights, cos, sin = self.grid(height, width)
        proj = self.patch_embed["proj"]
        x = F.linear(patches, proj.weight.flatten(1), proj.bias)
        x = x + (self.pos_embed(taps) * weights[..., None]).sum(1)
        deep = []
        for i, block in enumerate(self.blocks):
            x = block(x, cos.to(x.dtype), sin.to(x.dtype))
            if i in self.shape.deepstack:
                deep.append(self.deepstack_merger_list[self.shape.deepstack.index(i)](x))
        return self.merger(x), deep


class Attention(nn.Module):
    def __init__(self, s: Shape) -> None:
        super().__init__()
        self.s = s
        wide, narrow = s.heads * s.head_dim, s.kv_heads * s.head_dim
        self.q_proj = nn.Linear(s.hidden, wide, bias=False)
        self.k_proj = nn.Linear(s.hidden, narrow, bias=False)
        self.v_proj = nn.Linear(s.hidden, narrow, bias=False)
        self.o_proj = nn.Linear(wide, s.hidden, bias=False)
        self.q_norm, self.k_norm = RMSNorm(s.head_dim), RMSNorm(s.head_dim)

    def forward(
        self,
        x: Tensor,
        cos: Tensor,
        sin: Tensor,
        mask: "Tree | Tensor",
        cache: "Cache | None" = None,
        layer: int = 0,
    ) -> Tensor:
        """x [B, S, D]; cos, sin [B, S, d/2]; a mask tensor [B, 1, 1, S, keys] is added."""
        s, (batch, length, _) = self.s, x.shape
        heads = (batch, length, -1, s.head_dim)
        q, k, v = (p(x).view(heads) for p in (self.q_proj, self.k_proj, self.v_proj))
        if isinstance(mask, Tree) and fast.usable(x):
            q = fast.NormRotate.apply(q, self.q_norm.weight, cos, sin)
            k = fast.NormRotate.apply(k, self.k_norm.weight, cos, sin)
            v = v.transpose(1, 2).contiguous()
            mixed = fast.Attend.apply(q, k, v, mask.anchor, mask.lo)
            return self.o_proj(mixed.transpose(1, 2).reshape(batch, length, -1))
        q, k = (
            rotate(t.transpose(1, 2), cos[:, None], sin[:, None])
            for t in (self.q_norm(q), self.k_norm(k))
        )
        v = v.transpose(1, 2)
        if cache is not None:
            k, v = cache.append(layer, k, v)
        if isinstance(mask, Tree):
            mask = mask.dense(x.dtype)
        q = q.reshape(batch, s.kv_heads, -1, s.head_dim)  # the heads of a group share keys
        scores = q * s.head_dim**-0.5 @ k.transpose(-1, -2)
        scores = scores.view(batch, s.kv_heads, s.heads // s.kv_heads, length, -1) + mask
        mixed = scores.softmax(-1).flatten(2, 3) @ v
        mixed = mixed.view(batch, s.heads, length, s.head_dim).transpose(1, 2)
        return self.o_proj(mixed.reshape(batch, length, -1))


class Layer(nn.Module):
    def __init__(self, s: Shape) -> None:
        super().__init__()
        self.self_attn = Attention(s)
        self.mlp = nn.ModuleDict(
            {
                "gate_proj": nn.Linear(s.hidden, s.ffn, bias=False),
                "up_proj": nn.Linear(s.hidden, s.ffn, bias=False),
                "down_proj": nn.Linear(s.ffn, s.hidden, bias=False),
            }
        )
        self.input_layernorm, self.post_attention_layernorm = RMSNorm(s.hidden), RMSNorm(s.hidden)

    def forward(self, x: Tensor, *context) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), *context)
        y, mlp = self.post_attention_layernorm(x), self.mlp
        gate, up = mlp["gate_proj"](y), mlp["up_proj"](y)
        inner = fast.SwiGLU.apply(gate, up) if fast.usable(x) else F.silu(gate) * up
        return x + mlp["down_proj"](inner)


class Text(nn.Module):
    def __init__(self, s: Shape) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(s.vocab, s.hidden)
        self.layers = nn.ModuleList(Layer(s) for _ in range(s.layers))
        self.norm = RMSNorm(s.hidden)


class Cache:
    """Keys and values per layer, [B, kv heads, S, head_dim], grown by concatenation."""

    def __init__(self, layers: int) -> None:
        self.keys: list[Tensor | None] = [None] * layers
        self.values: list[Tensor | None] = [None] * layers

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        if self.keys[layer] is not None:
            k, v = torch.cat((self.keys[layer], k), 2), torch.cat((self.values[layer], v), 2)
        self.keys[layer], self.values[layer] = k, v
        return k, v


class PocketModel(nn.Module):
    def __init__(self, s: Shape) -> None:
        super().__init__()
        self.shape = s
        self.model = nn.ModuleDict({"visual": Vision(s), "language_model": Text(s)})
        self._initialise()

    def _initialise(self) -> None:
        for name, p in self.named_parameters():
            if p.dim() > 1:
                nn.init.normal_(p, std=0.02 if "embed" in name else p[0].numel() ** -0.5)
                if name.endswith(
                    (
                        "o_proj.weight",
                        "down_proj.weight",
                        "attn.proj.weight",
                        "mlp.linear_fc2.weight",
                    )
                ):
                    p.data.mul_(0.3)
            elif name.endswith("bias"):
                nn.init.zeros_(p)
        s, table = self.shape, self.model["visual"].pos_embed.weight
        # Positions start as sines of row and column: they are told apart from the first step on.
        place = torch.arange(s.side).float()[:, None]
        inv = 100.0 ** -(torch.arange(s.vision // 4).float() / (s.vision // 4))
        line = torch.cat(((place * inv).sin(), (place * inv).cos()), -1)
        table.data = 0.3 * torch.cat(
            (line[:, None].expand(-1, s.side, -1), line[None].expand(s.side, -1, -1)), -1
        ).flatten(0, 1)

    def see(self, patches: Tensor, grid: tuple[int, int]) -> tuple[Tensor, list[Tensor]]:
        return self.model["visual"](patches, *grid)

    def rotary(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """positions [3, B, S] -> interleaved M-RoPE cos, sin [B, S, head_dim/2]."""
        s = self.shape
        half = s.head_dim // 2
        inv = s.theta ** -(torch.arange(half).float() / half)
        axis = torch.zeros(half, dtype=torch.long)
        for a in (1, 2):
            axis[a : 3 * s.mrope[a] : 3] = a
        angles = positions.float()[axis].movedim(0, -1) * inv
        return angles.cos().contiguous(), angles.sin().contiguous()

    def forward(
        self,
        ids: Tensor,
        positions: Tensor,
        mask: Tree | Tensor,
        seen: tuple[Tensor, list[Tensor]] | None = None,
        image_at: int = 0,
        cache: Cache | None = None,
        depth: int | None = None,
    ) -> list[Tensor]:
        """Hidden states [B, S, D] before the first layer and after each of the first `depth`.

        ids [B, S]; positions [3, B, S]; mask: a Tree, or [B, S, keys], True where one may look;
        the visual tokens of `seen` stand from column `image_at` on.
        """
        text = self.model["language_model"]
        x = text.embed_tokens(ids)
        cos, sin = (t.to(x.dtype) for t in self.rotary(positions))
        if not isinstance(mask, Tree):
            mask = torch.zeros(mask.shape, dtype=x.dtype).masked_fill_(~mask, -math.inf)
            mask = mask[:, None, None]

        def place(x: Tensor, tokens: Tensor, add: bool) -> Tensor:
            end = image_at + tokens.shape[1]
            middle = x[:, image_at:end] + tokens if add else tokens.to(x.dtype)
            return torch.cat((x[:, :image_at], middle, x[:, end:]), 1)

        if seen is not None:
            x = place(x, seen[0], add=False)
        states = [x]
        for i, layer in enumerate(text.layers[:depth]):
            x = layer(x, cos, sin, mask, cache, i)
            if seen is not None and i < len(seen[1]):
                x = place(x, seen[1][i], add=True)
            states.append(x)
        return states

    def logits(self, state: Tensor) -> Tensor:
        """Next-token logits [..., vocab] of last-layer states [..., D]."""
        text = self.model["language_model"]
        return F.linear(text.norm(state), text.embed_tokens.weight)


def state_dict(model: PocketModel) -> dict[str, Tensor]:
    """Weights under transformers' names (lm_head is tied to the embedding)."""
    return {k: v.detach() for k, v in model.state_dict().items()}
