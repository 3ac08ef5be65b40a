"""Prompts with pictures: text, token ids and pixel values are those of transformers.

Where transformers has two answers or a poor one, this is the rule here:
- transparency: on white, as transformers' image processor does with a PIL image (its load_image,
  which reads paths, drops the alpha channel and shows whatever colour lies under it);
- EXIF orientation: applied, as load_image does (the image processor alone does not);
- 16 bits a channel: scaled to 8 bits (transformers cuts off at 255: nearly all white).
"""

import json
import random
import shutil

import numpy as np
import pytest
from dream_r import Request
from dream_r.checkpoint import resolve
from dream_r.images import load_picture
from dream_r.messages import of_request
from dream_r.processor import Processor
from dream_r.prompt import load_prompts
from PIL import Image

SETTINGS = {  # what the image processors of the two families are set to, but for the sizes
    "qwen3_vl": {
        "image_processor_type": "Qwen2VLImageProcessorFast",
        "patch_size": 16,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    },
    "qwen2_5_vl": {
        "image_processor_type": "Qwen2VLImageProcessor",
        "patch_size": 14,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
    },
}
SIZES = {"shortest_edge": 4096, "longest_edge": 40000}  # pixels: small, to be quick
PROMPTS = 500  # of each
WORDS = [
    "How many red shapes are there? ",
    "What is 3·(x² + 1) ≤ √2?",
    "\\frac{a}{b}",
    "$\\pi \\approx 3.14$",
    "héllo",
    "naïve",
    "ﬁne",
    "中文字符",
    "日本語。",
    "한국어",
    "עברית",
    "العربية",
    "नमस्ते",
    "👍🏽",
    "👩\u200d👩\u200d👧",
    "é",
    "\xa0",
    "\u200b",
    "\n",
    "\n\n",
    "\n\n\n",
    ".\n\n",
    "   ",
    "\t",
    "a < b > c",
    "<",
    ">",
    "</b>",
    "&amp;",
    "```python\nprint(1)\n```",
    "1234567890",
    "0.5%",
    "don't",
    "WE'LL",
    "ÀÉ",
    "_x_",
    "{question}",
    "{{x}}",
    "{% if %}",
    ":",
    ",",
]


def text(rng: random.Random) -> str:
    made = "".join(
        rng.choice(WORDS) + rng.choice((" ", "", " ")) for _ in range(rng.randint(1, 12))
    )
    return made if made.strip() else "What?"


def picture(rng: random.Random, folder) -> tuple[object, Image.Image]:
    """What is handed to us, and the picture that transformers' image processor gets for it."""
    noise = np.random.default_rng(rng.getrandbits(32))
    width, height = rng.choice(
        ((rng.randint(4, 90), rng.randint(4, 90)), (rng.randint(4, 6), 400), (300, 5), (32, 64))
    )
    mode = rng.choice(("RGB", "RGB", "L", "LA", "RGBA", "P", "P+t", "1", "CMYK", "I;16", "exif"))
    channels = {"RGBA": 4, "CMYK": 4, "LA": 2, "L": 1, "I;16": 1}.get(mode, 3)
    pixels = noise.integers(0, 256, (height, width, channels), np.uint8)
    if mode == "I;16":
        return Image.fromarray(pixels[..., 0].astype(np.uint16) * 257), Image.fromarray(
            pixels[..., 0]
        )
    if mode == "exif":
        return turned(pixels, rng.randint(1, 8), folder / "turned.png")
    if mode in ("P", "P+t"):
        made = Image.fromarray(pixels).quantize(16)
        if mode == "P+t":
            made.info["transparency"] = 3
        return made, made.copy()
    if mode == "1":
        made = Image.fromarray(pixels[..., 0]).convert("1")
        return made, made.copy()
    made = Image.fromarray(
        pixels[..., 0] if channels == 1 else pixels, mode if channels > 1 else None
    )
    return made, made.copy()


def turned(pixels, orientation: int, path) -> tuple[object, Image.Image]:
    from transformers.image_utils import load_image

    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(path, exif=exif)
    return path.read_bytes(), load_image(str(path))


@pytest.fixture(params=SETTINGS)
def folder(request, checkpoint_folder, tmp_path):
    own = shutil.copytree(checkpoint_folder, tmp_path / "own")
    settings = {**SETTINGS[request.param], "merge_size": 2, "temporal_patch_size": 2, "size": SIZES}
    (own / "preprocessor_config.json").write_text(json.dumps(settings))
    return own


def test_prompts_with_pictures(folder, tmp_path):
    from transformers import PreTrainedTokenizerFast
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import (
        Qwen2VLImageProcessorPil,
    )

    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    cutter = Qwen2VLImageProcessorPil.from_pretrained(folder)
    checkpoint = resolve(folder)
    processor, prompts = Processor(checkpoint), load_prompts(checkpoint)
    rng = random.Random(0)
    for i in range(PROMPTS):
        ours, theirs = zip(*(picture(rng, tmp_path) for _ in range(rng.randint(1, 2))), strict=True)
        messages, sources = of_request(Request(question=text(rng), images=ours), prompts)
        made = processor.encode(messages, [load_picture(source) for source in sources])
        cut = cutter(images=list(theirs), return_tensors="np")
        assert made.pixels.grid == [tuple(grid) for grid in cut["image_grid_thw"].tolist()], i
        np.testing.assert_array_equal(made.pixels.patches, cut["pixel_values"])
        said = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        assert processor.text(messages) == said, i
        pieces = said.split("<|image_pad|>")
        counts = [t * h * w // 4 for t, h, w in made.pixels.grid]
        whole = pieces[0] + "".join(
            "<|image_pad|>" * n + piece for n, piece in zip(counts, pieces[1:], strict=True)
        )
        assert made.ids == tokenizer(whole, add_special_tokens=False).input_ids, i


@pytest.mark.parametrize(("shortest", "longest"), [(65536, 16777216), (3136, 12845056)])
def test_the_sizes_that_checkpoints_ship_with(folder, shortest, longest):
    from dream_r.images import ImageSettings
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

    path = folder / "preprocessor_config.json"
    size = {"shortest_edge": shortest, "longest_edge": longest}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"size": size}))
    settings, rng = ImageSettings.of(resolve(folder)), random.Random(1)
    for _ in range(2000):
        width = round(2 ** rng.uniform(2, 13))
        height = max(4, round(width * 2 ** rng.uniform(-7, 7)))
        if max(width, height) > 190 * min(width, height):
            continue
        factor = settings.patch * settings.merge
        high, wide = smart_resize(height, width, factor, shortest, longest)
        assert settings.resized(width, height) == (wide, high), (width, height)
