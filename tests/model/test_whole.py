"""Every family through the whole package: pictures, chat template, scheduler and answer."""

import json
import shutil
import sys
from pathlib import Path

import dream_r
import numpy as np
import pytest
from cases import Prompt, Runner
from dream_r import _core
from dream_r.checkpoint import resolve
from dream_r.messages import normalise
from dream_r.processor import Processor
from families import RTiny
from PIL import Image

sys.path.append(str(Path(__file__).parents[1] / "python"))
from small_checkpoint import write_checkpoint

QUESTION = [{"role": "user", "content": [*[{"type": "image"}] * 2, {"type": "text", "text": "?"}]}]
WORDS = 20


@pytest.fixture(scope="module")
def folder(tiny, tmp_path_factory):
    """The checkpoint with a tokenizer, a chat template and picture settings."""
    made = write_checkpoint(tmp_path_factory.mktemp("whole") / "model")
    own, words = (json.loads((f / "config.json").read_text()) for f in (tiny.folder, made))
    tiled = isinstance(tiny, RTiny)
    own["image_token_index" if tiled else "image_token_id"] = words["image_token_id"]
    (made / "config.json").write_text(json.dumps(own))
    shutil.copy(tiny.folder / "model.safetensors", made)
    settings = {"patch_size": 4, "size": {"shortest_edge": 64, "longest_edge": 4096}}
    if tiled:
        settings = {"size": {"height": tiny.TILE, "width": tiny.TILE}}
        settings["image_processor_type"] = "LlavaOnevisionImageProcessor"
    (made / "preprocessor_config.json").write_text(json.dumps(settings))
    return made


def pictures() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    sizes = [(11, 20), (33, 27)]
    return [Image.fromarray(rng.integers(0, 256, (*s, 3), np.uint8)) for s in sizes]


def greedy(folder: Path, count: int) -> list[int]:
    """The words of the model alone, one forward a token."""
    processor = Processor(resolve(folder))
    read = processor.encode(*normalise(QUESTION, pictures()))
    model = _core.model.load(str(folder), "f32")
    run = Runner(model, Prompt(read.ids, read.pixels.grid, read.pixels.patches))
    never = processor.tokens.suppressed(model.vocab)
    logits, words = run.prefill()[-1], []
    for _ in range(count):
        logits[never] = -np.inf
        words.append(int(logits.argmax()))
        logits = run.decode(words[-1:])[-1]
    return words


def test_the_engine_writes_what_the_model_says(folder):
    wanted = greedy(folder, WORDS)
    with dream_r.Engine(folder, method="ar", dtype="f32", prefill_chunk=32) as engine:
        r = engine.generate(
            messages=QUESTION,
            images=pictures(),
            temperature=0,
            thinking_budget=WORDS,
            max_tokens=4,
        )
    wrote = [t for s in r.steps if s.author != "forced" for t in s.tokens]
    assert wrote and wrote == wanted[: len(wrote)]
    assert r.usage.image_tokens > 12
