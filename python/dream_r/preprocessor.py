"""preprocessor_config.json: where it stands, and what every way of cutting pictures reads of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from dream_r.checkpoint import Checkpoint

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

# Where a file is silent, as in transformers.
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
BICUBIC = 3


def read(checkpoint: Checkpoint, kinds: tuple[str, ...]) -> dict[str, Any]:
    """The settings of an image processor of one of these kinds; unnamed, it is the first of them.

    Newer transformers keep them in processor_config.json. ValueError where there are none or they
    are of another kind.
    """
    found = checkpoint.json("preprocessor_config.json")
    if found is None:
        found = (checkpoint.json("processor_config.json") or {}).get("image_processor")
    if found is None:
        raise ValueError(f"model {checkpoint.name}: the folder has no preprocessor_config.json")
    kind = str(found.get("image_processor_type", kinds[0]))
    if not kind.startswith(kinds):
        raise ValueError(f"model {checkpoint.name}: image processor {kind} is not supported")
    return found


@dataclass(frozen=True)
class PixelSettings:
    """How a picture is resized and its bytes become numbers."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: float
    resample: int

    @classmethod
    def of(cls, found: dict[str, Any]) -> PixelSettings:
        """TypeError or ValueError for what is no number."""
        return cls(
            mean=tuple(found.get("image_mean", MEAN)),
            std=tuple(found.get("image_std", STD)),
            scale=float(found.get("rescale_factor", 1 / 255)),
            resample=int(found.get("resample", BICUBIC)),
        )

    def resize(self, picture: Image, size: tuple[int, int]) -> Image:
        from PIL import Image

        return picture.resize(size, resample=Image.Resampling(self.resample))

    @cached_property
    def _table(self) -> NDArray[np.float32]:
        """[channel, byte]: what a byte becomes."""
        import numpy as np

        levels = (np.arange(256, dtype=np.float64) * self.scale).astype(np.float32)
        mean, std = np.asarray(self.mean, np.float32), np.asarray(self.std, np.float32)
        return np.ascontiguousarray(((levels[:, None] - mean) / std).T)

    def patches(self, cut: NDArray[np.uint8], frames: int = 1) -> NDArray[np.float32]:
        """Patches of pixels, [..., 3, height, width], as rows of numbers.

        A row is one patch, each of its channels `frames` times: 3 * frames * height * width.
        """
        import numpy as np

        out = np.empty((*cut.shape[:-2], frames, *cut.shape[-2:]), np.float32)
        for c in range(3):
            out[..., c, :, :, :] = self._table[c].take(cut[..., c, :, :])[..., None, :, :]
        return out.reshape(-1, math.prod(out.shape[-4:]))
