"""Tiny random checkpoints of every model family, and the same models in transformers."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
import transformers
from cases import END, IMAGE, START, VIDEO, VOCAB, Prompt, ids_of

TEXT = {
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 104,
    "vocab_size": VOCAB,
    "max_position_embeddings": 4096,
}
TOKENS = {
    "image_token_id": IMAGE,
    "video_token_id": VIDEO,
    "vision_start_token_id": START,
    "vision_end_token_id": END,
}


@dataclass
class Tiny:
    """A checkpoint folder and transformers' model of the same weights."""

    folder: Path
    reference: torch.nn.Module

    @property
    def config(self):
        return self.reference.config

    @property
    def vision_layers(self) -> int:
        raise NotImplementedError

    def tensors(self) -> dict[str, torch.Tensor]:
        """The reference's weights, in its own memory, under the names of a checkpoint."""
        tied = self.config.tie_word_embeddings
        found = self.reference.state_dict()
        return {n: t for n, t in found.items() if not (tied and n == "lm_head.weight")}

    def prompt(self, name: str, seed: int = 0, text: int = 9) -> Prompt:
        raise NotImplementedError

    def vision(self, p: Prompt) -> list[np.ndarray]:
        """transformers' features of the pictures, and of every DeepStack level."""
        raise NotImplementedError

    def positions(self, p: Prompt) -> tuple[np.ndarray, int]:
        """transformers' positions [tokens, 3], and what a token's index after them lacks."""
        raise NotImplementedError

    def logits(self, p: Prompt, more=(), cache=None, model=None) -> np.ndarray:
        """transformers' logits of every token of the prompt, and of `more` tokens after it."""
        model = model or self.reference
        model.model.rope_deltas = None
        with torch.no_grad():
            out = model(
                input_ids=torch.tensor([[*p.ids, *more]]),
                past_key_values=cache,
                use_cache=cache is not None,
                **self.extra(p, len(more)),
                **p.reference,
            )
        return out.logits[0].float().numpy()

    def extra(self, p: Prompt, more: int) -> dict:
        return {}


class QwenTiny(Tiny):
    GRIDS: ClassVar = {
        "text": [],
        "one image": [(1, 4, 6)],
        "two images": [(1, 6, 4), (1, 2, 8)],
        "larger": [(1, 14, 12)],  # than the grid of position embeddings; many windows
        "two frames": [(2, 4, 6)],
    }

    @property
    def vision_layers(self) -> int:
        return self.config.vision_config.depth

    def prompt(self, name: str, seed: int = 0, text: int = 9) -> Prompt:
        rng = np.random.default_rng(seed)
        grids = self.GRIDS[name]
        ids = ids_of([t * h * w // 4 for t, h, w in grids], rng, text)
        count = sum(t * h * w for t, h, w in grids)
        patches = rng.standard_normal((count, 3 * 2 * 4 * 4)).astype(np.float32)
        pictures = {
            "pixel_values": torch.from_numpy(patches),
            "image_grid_thw": torch.tensor(grids),
        }
        return Prompt(ids, grids, patches, pictures if grids else {})

    def extra(self, p: Prompt, more: int) -> dict:
        return {"mm_token_type_ids": torch.tensor([[*p.types, *[0] * more]])}

    def vision(self, p: Prompt) -> list[np.ndarray]:
        with torch.no_grad():
            out = self.reference.model.visual(torch.from_numpy(p.patches), torch.tensor(p.grids))
        levels = getattr(out, "deepstack_features", None) or []
        return [t.numpy() for t in (out.pooler_output, *levels)]

    def positions(self, p: Prompt) -> tuple[np.ndarray, int]:
        positions, delta = self.reference.model.get_rope_index(
            torch.tensor([p.ids]),
            mm_token_type_ids=torch.tensor([p.types]),
            image_grid_thw=torch.tensor(p.grids) if p.grids else None,
        )
        return positions[:, 0].T.numpy(), int(delta.item())


class RTiny(Tiny):
    SIDE, TILE, PATCH = 3, 14, 4  # 14 / 4 leaves pixels over, as 384 / 14 does
    SIZES: ClassVar = {  # height, width of the pictures
        "text": [],
        "one image": [(11, 20)],
        "two images": [(40, 13), (12, 12)],
        "larger": [(41, 39)],  # four tiles, shrunk to the room of two
    }

    @property
    def vision_layers(self) -> int:
        return self.config.vision_config.num_hidden_layers

    def tensors(self) -> dict[str, torch.Tensor]:
        """transformers names no `vision_model` inside the tower; R-4B does."""
        tower = "model.vision_tower."
        own = re.compile(re.escape(tower) + r"(?!vision_model\.)")
        return {own.sub(f"{tower}vision_model.", n): t for n, t in super().tensors().items()}

    def prompt(self, name: str, seed: int = 0, text: int = 9) -> Prompt:
        from transformers.models.llava_onevision import modeling_llava_onevision as theirs

        rng = np.random.default_rng(seed)
        sizes = self.SIZES[name]
        points = self.config.image_grid_pinpoints
        counts = [theirs.image_size_to_num_patches(s, points, self.TILE) for s in sizes]
        shape = (max(counts, default=0), 3, self.TILE, self.TILE)
        tiles = rng.standard_normal((len(sizes), *shape)).astype(np.float32)
        p = Prompt(
            [], [(n, *s) for n, s in zip(counts, sizes, strict=True)], self.cut(tiles, counts)
        )
        if sizes:
            p.reference = {
                "pixel_values": torch.from_numpy(tiles),
                "image_sizes": torch.tensor(sizes),
            }
        lengths = [len(f) for f in self.packed(p)] if sizes else []
        p.ids = ids_of(lengths, rng, text)
        return p

    def cut(self, tiles: np.ndarray, counts: list[int]) -> np.ndarray:
        """The pictures' tiles as patches, each from top left, channels first."""
        own = [t[:n] for t, n in zip(tiles, counts, strict=True)]
        flat = np.concatenate(own) if own else np.zeros((0, 3, self.TILE, self.TILE), np.float32)
        side, patch = self.SIDE, self.PATCH
        seen = flat[:, :, : side * patch, : side * patch]
        seen = seen.reshape(-1, 3, side, patch, side, patch).transpose(0, 2, 4, 1, 3, 5)
        return np.ascontiguousarray(seen).reshape(-1, 3 * patch * patch)

    def packed(self, p: Prompt) -> list[torch.Tensor]:
        with torch.no_grad():
            return self.reference.model.get_image_features(**p.reference).pooler_output

    def vision(self, p: Prompt) -> list[np.ndarray]:
        return [torch.cat(list(self.packed(p))).numpy()]

    def positions(self, p: Prompt) -> tuple[np.ndarray, int]:
        return np.repeat(np.arange(len(p.ids))[:, None], 3, axis=1), 0


def qwen3(tied: bool, text: dict, vision: dict):
    return transformers.Qwen3VLForConditionalGeneration, transformers.Qwen3VLConfig(
        **qwen3_parts(text, vision), tie_word_embeddings=tied, **TOKENS
    )


def qwen3_parts(text: dict, vision: dict) -> dict:
    rope = {
        "rope_type": "default",
        "rope_theta": 10000.0,
        "mrope_interleaved": True,
        "mrope_section": text["mrope_section"],
    }
    text = {k: v for k, v in text.items() if k != "mrope_section"}
    return {
        "text_config": {**TEXT, "rope_parameters": rope, **text},
        "vision_config": {
            "depth": 4,
            "num_heads": 2,
            "intermediate_size": 88,
            "out_hidden_size": 64,
            "num_position_embeddings": 25,
            "patch_size": 4,
            **vision,
        },
    }


def qwen3_moe():
    """Experts in layers 1 and 5: in every second one, less layer 3 by its name."""
    parts = qwen3_parts(
        {
            "num_hidden_layers": 6,
            "head_dim": 16,
            "mrope_section": [4, 2, 2],
            "num_experts": 6,
            "num_experts_per_tok": 3,
            "moe_intermediate_size": 24,
            "decoder_sparse_step": 2,
            "mlp_only_layers": [3],
        },
        {"hidden_size": 48, "deepstack_visual_indexes": [0, 1]},
    )
    return transformers.Qwen3VLMoeForConditionalGeneration, transformers.Qwen3VLMoeConfig(
        **parts, tie_word_embeddings=False, **TOKENS
    )


def qwen2_5():
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
    return transformers.Qwen2_5_VLForConditionalGeneration, transformers.Qwen2_5_VLConfig(
        text_config={**TEXT, "num_hidden_layers": 3, "rope_parameters": rope},
        vision_config={
            "depth": 4,
            "hidden_size": 48,
            "num_heads": 2,
            "intermediate_size": 70,  # its linear layers end in the middle of a panel
            "out_hidden_size": 64,
            "patch_size": 4,
            "window_size": 16,  # two tokens
            "fullatt_block_indexes": [1, 3],
        },
        tie_word_embeddings=False,
        **TOKENS,
    )


def r_config():
    return transformers.LlavaOnevisionConfig(
        text_config=transformers.Qwen3Config(
            **TEXT, num_hidden_layers=3, head_dim=32, tie_word_embeddings=True
        ),
        vision_config=transformers.SiglipVisionConfig(
            hidden_size=48,
            intermediate_size=88,
            num_hidden_layers=3,
            num_attention_heads=2,
            image_size=RTiny.TILE,
            patch_size=RTiny.PATCH,
        ),
        image_token_index=IMAGE,
        video_token_index=VIDEO,
        image_grid_pinpoints=[[14, 14], [14, 28], [28, 14], [28, 28], [42, 14]],
        vision_aspect_ratio="anyres_max_2",
        tie_word_embeddings=True,
    )
