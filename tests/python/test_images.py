import base64
import struct
import zlib

import numpy as np
import pytest
from dream_r.checkpoint import resolve
from dream_r.images import ImageSettings, digest, load_picture
from PIL import Image


def noise(width, height, mode="RGB"):
    channels = len(mode)
    shape = (height, width, channels) if channels > 1 else (height, width)
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, shape, np.uint8))


@pytest.mark.parametrize(
    "size", [(64, 64), (128, 96), (33, 47), (8, 300), (5, 900), (1000, 700), (256, 256), (31, 31)]
)
def test_patches_are_those_of_transformers(checkpoint_folder, size):
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import (
        Qwen2VLImageProcessorPil,
    )

    theirs = Qwen2VLImageProcessorPil.from_pretrained(checkpoint_folder)(
        images=[noise(*size)], return_tensors="np"
    )
    patches, grid = ImageSettings.of(resolve(checkpoint_folder)).patches(noise(*size))
    assert grid == tuple(theirs["image_grid_thw"][0])
    np.testing.assert_array_equal(patches, theirs["pixel_values"])


def test_every_source_gives_the_same_picture(tmp_path):
    picture = noise(40, 30)
    path = tmp_path / "a.png"
    picture.save(path)
    uri = "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
    for source in (picture, path, str(path), path.read_bytes(), uri, np.asarray(picture)):
        assert digest(load_picture(source)) == digest(picture)


def test_exif_rotation_is_applied(tmp_path):
    picture, exif = noise(40, 20), Image.Exif()
    exif[0x0112] = 6
    picture.save(tmp_path / "a.png", exif=exif)
    assert load_picture(tmp_path / "a.png").size == (20, 40)


def test_transparency_is_white_and_grey_is_rgb():
    assert load_picture(Image.new("RGBA", (8, 8), (9, 9, 9, 0))).getpixel((0, 0)) == (255,) * 3
    assert load_picture(Image.new("L", (8, 8), 7)).getpixel((0, 0)) == (7,) * 3
    assert load_picture(Image.new("1", (8, 8), 1)).getpixel((0, 0)) == (255,) * 3
    deep = Image.fromarray(np.full((8, 8), 65535 // 2, np.uint16))
    assert load_picture(deep).getpixel((0, 0)) == (127,) * 3


def bomb() -> bytes:
    """A PNG header that promises 40,000 x 40,000 pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", 40000, 40000, 8, 2, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(bytes(100)))
        + chunk(b"IEND", b"")
    )


def bad_pictures(folder):
    """Each bad picture of a list that users will try, and what its error must say."""
    noise(200, 200).save(folder / "whole.png")
    whole = (folder / "whole.png").read_bytes()
    noise(200, 200).save(folder / "whole.jpg")
    files = {
        "text.png": (b"this is no picture\n", "not a picture"),
        "empty.png": (b"", "empty"),
        "cut.png": (whole[: len(whole) // 2], "damaged or cut off"),
        "cut.jpg": ((folder / "whole.jpg").read_bytes()[:3000], "damaged or cut off"),
        "bomb.png": (bomb(), "decompression bomb"),
    }
    for name, (data, says) in files.items():
        (folder / name).write_bytes(data)
        yield folder / name, says
    Image.new("RGB", (1, 1)).save(folder / "dot.png")
    yield folder / "dot.png", "1x1 pixels show nothing"
    Image.new("RGB", (20000, 20)).save(folder / "line.png")
    yield folder / "line.png", "20000x20 pixels is too narrow"
    yield folder / "absent.png", "no such picture"
    yield folder, "a folder"


def test_bad_pictures_are_one_clear_line(tmp_path):
    for path, says in bad_pictures(tmp_path):
        with pytest.raises(ValueError) as error:
            load_picture(path)
        assert says in str(error.value), path
        assert str(path) in str(error.value)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("https://example.org/a.png", "not downloaded"),
        ("data:image/png,xx", "base64"),
        ("data:image/png;base64,@@@", "not valid base64"),
        (3, "not int"),
        (np.zeros((8, 8, 3), np.float32), "uint8"),
        (b"", "empty"),
    ],
)
def test_bad_sources(source, says):
    with pytest.raises(ValueError, match=says):
        load_picture(source)
