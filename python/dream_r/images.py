"""Pictures: reading them safely, and cutting them into the vision tower's patches.

The arithmetic is that of transformers' Qwen2VLImageProcessorPil, to the bit (a test compares them),
without its import of one and a half seconds.
"""

from __future__ import annotations

import base64
import hashlib
import io
import math
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dream_r import preprocessor
from dream_r.checkpoint import Checkpoint

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

    from dream_r.config import Picture

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
SMALLEST = 4  # pixels of a side: below, there is nothing to see
KINDS = ("Qwen2VLImageProcessor", "Qwen2_5_VLImageProcessor", "Qwen3VLImageProcessor")
MAX_RATIO = 200  # of the sides; Qwen's rule


def load_picture(source: Picture) -> Image:
    """An upright RGB picture from a path, data: URI, bytes, array or PIL image.

    ValueError of one line for anything that is not a picture worth looking at.
    """
    from PIL import Image

    if isinstance(source, Image.Image):
        name, picture = "the picture", source
        _check_size(name, *picture.size)
        return _rgb(name, picture)
    if isinstance(source, str) and source.startswith("data:"):
        name, data = "the data: picture", _data_uri(source)
    elif isinstance(source, bytes | bytearray):
        name, data = "the picture", bytes(source)
    elif isinstance(source, str | os.PathLike):
        name, data = str(source), _file(source)
    elif hasattr(source, "__array_interface__"):
        return load_picture(_from_array(source))
    else:
        raise ValueError(
            f"a picture must be a path, a PIL image, bytes or an array, not {type(source).__name__}"
        )
    if not data:
        raise ValueError(f"{name}: the file is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            picture = Image.open(io.BytesIO(data), formats=FORMATS)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise ValueError(
            f"{name}: more than {Image.MAX_IMAGE_PIXELS:,} pixels (a decompression "
            "bomb?); make it smaller"
        ) from None
    except Exception:  # each format has its own errors
        raise ValueError(
            f"{name}: not a picture that can be read (known: {', '.join(FORMATS)})"
        ) from None
    _check_size(name, *picture.size)
    return _rgb(name, picture)


def _file(source: str | os.PathLike[str]) -> bytes:
    if str(source).startswith(("http://", "https://")):
        raise ValueError(f"{source}: pictures are not downloaded; save it and give its path")
    path = Path(source).expanduser()
    if path.is_dir():
        raise ValueError(f"{source}: a folder, not a picture")
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise ValueError(f"{source}: no such picture") from None
    except OSError as error:
        raise ValueError(f"{source}: cannot be read: {error.strerror}") from None


def _data_uri(source: str) -> bytes:
    head, comma, body = source.partition(",")
    if not comma or not head.endswith(";base64"):
        raise ValueError("the data: picture must be data:image/...;base64,...")
    try:
        return base64.b64decode(body, validate=True)
    except ValueError:
        raise ValueError("the data: picture is not valid base64") from None


def _from_array(array: Any) -> Image:
    import numpy as np
    from PIL import Image

    array = np.asarray(array)
    if (
        array.dtype != np.uint8
        or array.ndim not in (2, 3)
        or array.shape[2:] not in ((), (1,), (3,), (4,))
    ):
        raise ValueError(
            "a picture as an array must be uint8 of shape [height, width, 3], not "
            f"{array.dtype} {list(array.shape)}"
        )
    return Image.fromarray(array[..., 0] if array.shape[2:] == (1,) else array)


def _check_size(name: str, width: int, height: int) -> None:
    short, long = sorted((width, height))
    if short < SMALLEST:
        raise ValueError(
            f"{name}: {width}x{height} pixels show nothing; each side needs at least {SMALLEST}"
        )
    if long > MAX_RATIO * short:
        raise ValueError(
            f"{name}: {width}x{height} pixels is too narrow; the sides may differ by "
            f"a factor of {MAX_RATIO} at most"
        )


def _rgb(name: str, picture: Image) -> Image:
    """Decoded, turned as its EXIF says, first frame, transparency on white."""
    from PIL import Image, ImageOps

    try:
        picture.load()
        picture = ImageOps.exif_transpose(picture)
    except Exception:
        raise ValueError(f"{name}: the picture is damaged or cut off") from None
    if picture.mode.startswith(("I", "F")):  # 16 bits a pixel, or more
        import numpy as np

        values = np.asarray(picture, np.float64)
        scale = 255 / 65535 if values.max(initial=0) > 255 else 1.0
        picture = Image.fromarray(np.clip(values * scale, 0, 255).astype(np.uint8))
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture)
    return picture.convert("RGB")


def digest(picture: Image) -> bytes:
    """SHA-256 of size and RGB pixels: the identity of a picture in the prefix cache."""
    head = f"{picture.width}x{picture.height}:".encode()
    return hashlib.sha256(head + picture.tobytes()).digest()


@dataclass(frozen=True)
class ImageSettings:
    """How one model wants its pictures; sizes in pixels."""

    patch: int
    merge: int
    temporal: int
    min_pixels: int
    max_pixels: int
    pixels: preprocessor.PixelSettings

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> ImageSettings:
        found = preprocessor.read(checkpoint, KINDS)
        size = found.get("size") or {}
        try:
            return cls(
                patch=int(found.get("patch_size", 14)),
                merge=int(found.get("merge_size", 2)),
                temporal=int(found.get("temporal_patch_size", 2)),
                min_pixels=int(found.get("min_pixels") or size.get("shortest_edge", 56 * 56)),
                max_pixels=int(found.get("max_pixels") or size.get("longest_edge", 28 * 28 * 1280)),
                pixels=preprocessor.PixelSettings.of(found),
            )
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"model {checkpoint.name}: preprocessor_config.json: {error}"
            ) from None

    def resized(self, width: int, height: int) -> tuple[int, int]:
        """Width and height that the model sees: multiples of patch * merge within the limits."""
        factor = self.patch * self.merge
        high, wide = (round(side / factor) * factor for side in (height, width))
        if high * wide > self.max_pixels:
            beta = math.sqrt(height * width / self.max_pixels)
            high, wide = (
                max(factor, math.floor(side / beta / factor) * factor) for side in (height, width)
            )
        elif high * wide < self.min_pixels:
            beta = math.sqrt(self.min_pixels / (height * width))
            high, wide = (math.ceil(side * beta / factor) * factor for side in (height, width))
        return wide, high

    def tokens(self, grid: tuple[int, int, int]) -> int:
        """Image tokens of a picture with this grid."""
        return grid[0] * grid[1] * grid[2] // self.merge**2

    def patches(self, picture: Image) -> tuple[NDArray[np.float32], tuple[int, int, int]]:
        """Patches [N, 3 * temporal * patch * patch] in merge order, and the grid (t, h, w)."""
        import numpy as np

        size = self.resized(*picture.size)
        if size != picture.size:
            picture = self.pixels.resize(picture, size)
        p, m = self.patch, self.merge
        high, wide = size[1] // p, size[0] // p
        pixels = np.asarray(picture, np.uint8).reshape(high // m, m, p, wide // m, m, p, 3)
        cut = pixels.transpose(0, 3, 1, 4, 6, 2, 5)
        return self.pixels.patches(cut, self.temporal), (1, high, wide)
