"""R-4B's pictures against transformers' LLaVA-OneVision, whose scheme they follow."""

import json
import shutil

import numpy as np
import pytest
from dream_r.checkpoint import resolve
from dream_r.processor import Processor
from dream_r.tiles import TileSettings
from PIL import Image

POINTS = [[28, 28], [28, 56], [56, 28], [56, 56], [28, 84], [84, 28], [84, 84]]
SIZES = [(28, 28), (30, 20), (100, 31), (17, 90), (200, 190), (84, 83), (5, 9), (61, 60)]


def noise(width, height):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture
def folder(checkpoint_folder, tmp_path):
    made = shutil.copytree(checkpoint_folder, tmp_path / "r")
    config = json.loads((made / "config.json").read_text())
    config |= {
        "architectures": ["RForConditionalGeneration"],
        "vision_config": {"image_size": 28, "patch_size": 8},
        "image_grid_pinpoints": POINTS,
        "vision_aspect_ratio": "anyres_max_3",
    }
    config["image_token_index"] = config.pop("image_token_id")
    (made / "config.json").write_text(json.dumps(config))
    settings = {
        "image_processor_type": "LlavaOnevisionImageProcessor",
        "image_grid_pinpoints": POINTS,
        "image_mean": [0.5, 0.4, 0.3],
        "image_std": [0.5, 0.6, 0.7],
        "size": {"height": 28, "width": 28},
    }
    (made / "preprocessor_config.json").write_text(json.dumps(settings))
    return made


@pytest.mark.parametrize("size", SIZES)
def test_tiles_are_those_of_transformers(folder, size):
    from transformers.models.llava_onevision.image_processing_pil_llava_onevision import (
        LlavaOnevisionImageProcessorPil,
    )

    theirs = LlavaOnevisionImageProcessorPil.from_pretrained(folder)([noise(*size)])
    tiles = np.asarray(theirs["pixel_values"][0], np.float32)[:, :, :24, :24]  # three patches of 8
    cut = tiles.reshape(-1, 3, 3, 8, 3, 8).transpose(0, 2, 4, 1, 3, 5).reshape(-1, 3 * 8 * 8)
    patches, grid = TileSettings.of(resolve(folder)).patches(noise(*size))
    assert grid == (len(tiles), size[1], size[0])
    np.testing.assert_array_equal(patches, cut)


@pytest.mark.parametrize("size", SIZES)
def test_as_many_tokens_as_transformers_counts(folder, size):
    from types import SimpleNamespace

    from transformers import LlavaOnevisionProcessor

    # The two numbers its count reads of a processor, which cannot be made without torchvision.
    theirs = SimpleNamespace(
        image_processor=SimpleNamespace(image_grid_pinpoints=POINTS),
        num_image_tokens=9,
        vision_aspect_ratio="anyres_max_3",
    )
    theirs._get_unpadded_features = lambda *a: LlavaOnevisionProcessor._get_unpadded_features(
        theirs, *a
    )
    count = LlavaOnevisionProcessor._get_number_of_features(theirs, size[1], size[0], 28, 28)
    assert TileSettings.of(resolve(folder)).tokens((0, size[1], size[0])) == count


def test_a_prompt_has_the_tokens_of_its_pictures(folder):
    processor = Processor(resolve(folder))
    content = [{"type": "image"}, {"type": "text", "text": "what?"}, {"type": "image"}]
    pictures = [noise(30, 20), noise(200, 190)]
    made = processor.encode([{"role": "user", "content": content}], pictures)
    assert made.image_tokens == sum(map(processor.images.tokens, made.pixels.grid))
    assert made.pixels.patches.shape == (9 * sum(g[0] for g in made.pixels.grid), 3 * 8 * 8)


def test_settings_may_stand_where_newer_transformers_write_them(
    folder, checkpoint_folder, tmp_path
):
    other = shutil.copytree(checkpoint_folder, tmp_path / "other")
    for made in (folder, other):
        known = Processor(resolve(made)).images
        settings = made / "preprocessor_config.json"
        found = json.loads(settings.read_text())
        settings.unlink()
        (made / "processor_config.json").write_text(json.dumps({"image_processor": found}))
        assert Processor(resolve(made)).images == known
        (made / "processor_config.json").unlink()
        with pytest.raises(ValueError, match=r"no preprocessor_config\.json"):
            _ = Processor(resolve(made)).images


@pytest.mark.parametrize(
    ("file", "values", "says"),
    [
        ("preprocessor_config.json", {"image_processor_type": "CLIPImageProcessor"}, "CLIPImage"),
        ("preprocessor_config.json", {"image_grid_pinpoints": [[28, 28]]}, "disagree"),
        ("preprocessor_config.json", {"size": {"height": 30, "width": 30}}, "disagree"),
        ("config.json", {"vision_aspect_ratio": "square"}, "config.json"),
        ("config.json", {"image_grid_pinpoints": [28]}, "config.json"),
    ],
)
def test_settings_not_understood(folder, file, values, says):
    found = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps(found | values))
    with pytest.raises(ValueError, match=says):
        TileSettings.of(resolve(folder))
