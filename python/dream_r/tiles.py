"""Pictures as R-4B reads them (the scheme of LLaVA-OneVision): once whole, scaled to a square tile,
and once fitted into the best of a list of resolutions, cut into tiles of the same size.

The arithmetic is that of transformers' LlavaOnevisionImageProcessorPil, to the bit (a test compares
them).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dream_r import preprocessor
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
    pixels: preprocessor.PixelSettings

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> TileSettings:
        found = preprocessor.read(checkpoint, KINDS)
        config, vision = checkpoint.config, checkpoint.config["vision_config"]
        aspect = str(config.get("vision_aspect_ratio", "anyres_max_9"))
        size = found.get("size") or {"height": 384, "width": 384}
        try:
            made = cls(
                tile=int(vision.get("image_size", 224)),
                patch=int(vision.get("patch_size", 16)),
                max_tiles=int(aspect.removeprefix("anyres_max_")),
                pinpoints=tuple((int(h), int(w)) for h, w in config["image_grid_pinpoints"]),
                pixels=preprocessor.PixelSettings.of(found),
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
        fitted = Image.new("RGB", (fit_w, fit_h))
        margin = ((fit_w - inner[0]) // 2, (fit_h - inner[1]) // 2)
        fitted.paste(self.pixels.resize(picture, inner), margin)
        tiles = [self.pixels.resize(picture, (self.tile, self.tile))]
        for y in range(0, fit_h, self.tile):
            for x in range(0, fit_w, self.tile):
                tiles.append(fitted.crop((x, y, x + self.tile, y + self.tile)))
        seen, p = self.side * self.patch, self.patch
        pixels = np.stack([np.asarray(t, np.uint8)[:seen, :seen] for t in tiles])
        cut = pixels.reshape(-1, self.side, p, self.side, p, 3).transpose(0, 1, 3, 5, 2, 4)
        return self.pixels.patches(cut), (len(tiles), height, width)
