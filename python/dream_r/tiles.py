"""Pictures as R-4B reads them (the scheme of LLaVA-OneVision): once whole, scaled to a square tile,
and once fitted into the best of a list of resolutions, cut into tiles of the same size.

The arithmetic is that of transformers' LlavaOnevisionImageProcessorPil, to the bit (a test compares
them).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dream_r.checkpoint import Checkpoint

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

KINDS = ("LlavaOnevisionImageProcessor", "LlavaNextImageProcessor", "RImageProcessor")


@dataclass(frozen=True)
class TileSettings:
    """How one model wants its pictures; sizes in pixels."""

    tile: int
    patch: int
    max_tiles: int  # features of more tiles are shrunk to so many
    pinpoints: tuple[tuple[int, int], ...]  # (height, width)
    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: float
    resample: int

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> TileSettings:
        found = checkpoint.json("preprocessor_config.json")
        if found is None:
            raise ValueError(f"model {checkpoint.name}: the folder has no preprocessor_config.json")
        kind = str(found.get("image_processor_type", KINDS[0]))
        if not kind.startswith(KINDS):
            raise ValueError(f"model {checkpoint.name}: image processor {kind} is not supported")
        config, vision = checkpoint.config, checkpoint.config["vision_config"]
        aspect = str(config.get("vision_aspect_ratio", "anyres_max_9"))
        size = found.get("size") or {"height": 384, "width": 384}
        try:
            made = cls(
                tile=int(vision.get("image_size", 224)),
                patch=int(vision.get("patch_size", 16)),
                max_tiles=int(aspect.removeprefix("anyres_max_")),
                pinpoints=tuple((int(h), int(w)) for h, w in config["image_grid_pinpoints"]),
                mean=tuple(found.get("image_mean", (0.48145466, 0.4578275, 0.40821073))),
                std=tuple(found.get("image_std", (0.26862954, 0.26130258, 0.27577711))),
                scale=float(found.get("rescale_factor", 1 / 255)),
                resample=int(found.get("resample", 3)),
            )
            own = tuple((int(h), int(w)) for h, w in found.get("image_grid_pinpoints", []))
            square = (int(size["height"]), int(size["width"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"model {checkpoint.name}: config.json or preprocessor_config.json: {error}"
            ) from None
        if (own and own != made.pinpoints) or square != (made.tile, made.tile):
            raise ValueError(
                f"model {checkpoint.name}: config.json and preprocessor_config.json disagree on "
                "image_grid_pinpoints or the size of a tile"
            )
        return made

    @property
    def side(self) -> int:
        """Patches of a tile's side."""
        return self.tile // self.patch

    def best(self, height: int, width: int) -> tuple[int, int]:
        """The resolution that keeps most pixels, of those the one with the least left over."""

        def worth(point: tuple[int, int]) -> tuple[int, int]:
            scale = min(point[1] / width, point[0] / height)
            kept = min(int(width * scale) * int(height * scale), width * height)
            return kept, kept - point[0] * point[1]

        return max(self.pinpoints, key=worth)

    def tokens(self, grid: tuple[int, int, int]) -> int:
        """Image tokens of a picture; `grid` is (tiles, height, width)."""
        _, height, width = grid
        fit_h, fit_w = self.best(height, width)
        high, wide = (side // self.tile * self.side for side in (fit_h, fit_w))
        if width / height > wide / high:
            high -= (high - int(round(height * (wide / width), 7))) // 2 * 2
        else:
            wide -= (wide - int(round(width * (high / height), 7))) // 2 * 2
        ratio = math.sqrt(high * wide / (self.max_tiles * self.side**2))
        if ratio > 1.1:
            high, wide = int(high // ratio), int(wide // ratio)
        return self.side**2 + high * (wide + 1)

    def patches(self, picture: Image) -> tuple[NDArray[np.float32], tuple[int, int, int]]:
        """Patches [N, 3 * patch * patch], tile after tile, and (tiles, height, width)."""
        import numpy as np
        from PIL import Image

        width, height = picture.size
        fit_h, fit_w = self.best(height, width)
        across, down = fit_w / width, fit_h / height
        if across < down:
            inner = (fit_w, min(math.ceil(height * across), fit_h))
        else:
            inner = (min(math.ceil(width * down), fit_w), fit_h)
        filtering = Image.Resampling(self.resample)
        fitted = Image.new("RGB", (fit_w, fit_h))
        fitted.paste(
            picture.resize(inner, filtering), ((fit_w - inner[0]) // 2, (fit_h - inner[1]) // 2)
        )
        tiles = [picture.resize((self.tile, self.tile), filtering)]
        for y in range(0, fit_h, self.tile):
            for x in range(0, fit_w, self.tile):
                tiles.append(fitted.crop((x, y, x + self.tile, y + self.tile)))
        levels = (np.arange(256, dtype=np.float64) * self.scale).astype(np.float32)
        mean, std = np.asarray(self.mean, np.float32), np.asarray(self.std, np.float32)
        table = (levels[:, None] - mean) / std  # normalised value of each byte, per channel
        seen, p = self.side * self.patch, self.patch
        pixels = np.stack([np.asarray(t, np.uint8)[:seen, :seen] for t in tiles])
        planes = np.stack([table[pixels[..., c], c] for c in range(3)], axis=1)
        cut = planes.reshape(-1, 3, self.side, p, self.side, p).transpose(0, 2, 4, 1, 3, 5)
        return np.ascontiguousarray(cut).reshape(-1, 3 * p * p), (len(tiles), height, width)
