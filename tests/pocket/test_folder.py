"""The model folders: tokenizer, template, processor, prompts, and transformers' own reading."""

import json

import numpy as np
import pytest
from dream_r import pocket
from dream_r.pocket import words
from dream_r.pocket.problems import next_step, problem
from dream_r.pocket.speaker import Speaker

transformers = pytest.importorskip("transformers")
ROLES = ("target", "draft")


@pytest.fixture(scope="module", params=ROLES)
def folder(request):
    path = pocket.path(request.param)
    if not (path / "model.safetensors").exists():
        pytest.skip("the pair has not been exported")
    return path


@pytest.fixture(scope="module")
def tokenizer(folder):
    return transformers.AutoTokenizer.from_pretrained(folder)


def one(tokenizer, text):
    ids = tokenizer(text, add_special_tokens=False).input_ids
    assert len(ids) == 1, (text, ids)
    return ids[0]


def test_any_text_round_trips(tokenizer):
    rng = np.random.default_rng(0)
    texts = ["", " ", "\n\n\n", "Row 2: ... 12345 \\boxed{red}", "caf\u00e9 \u2192 \U0001f600\t."]
    texts += [
        "".join(chr(c) for c in rng.choice([*range(32, 127), 10, 9], rng.integers(1, 60)))
        for _ in range(500)
    ]
    for text in texts:
        ids = tokenizer(text, add_special_tokens=False).input_ids
        assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text


def test_steps_are_words(tokenizer):
    for text in (".\n\n", "\n\n", "\n", "</think>", "<think>", " yes,", " circles", " 12"):
        one(tokenizer, text)
    p = problem(2, 2)
    for k, step in enumerate(p.steps):
        say = Speaker()
        next_step(p.scene, p.steps[:k], say)
        ids = tokenizer(step, add_special_tokens=False).input_ids
        assert [tokenizer.decode([i]) for i in ids] == [w.said for w in say.words]


def test_scoring_suffix_and_keywords(folder, tokenizer):
    scoring = json.loads((folder / "scoring.json").read_text())
    assert scoring["suffix"] == words.SUFFIX
    assert one(tokenizer, scoring["positive"]) != one(tokenizer, scoring["negative"])
    assert 2 <= len(tokenizer(scoring["suffix"]).input_ids) <= 6
    assert "{question}" in (folder / "reasoning.txt").read_text()


def test_template(tokenizer):
    user = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Hi?"}]}
    image = "<|vision_start|><|image_pad|><|vision_end|>"
    start = f"<|im_start|>user\n{image}Hi?<|im_end|>\n<|im_start|>assistant\n"

    def render(messages, **options):
        return tokenizer.apply_chat_template(messages, tokenize=False, **options)

    assert render([user], add_generation_prompt=True) == start + "<think>\n"
    prefix = {"role": "assistant", "content": "<think>\nFirst I count the stars.\n\n"}
    assert render([user, prefix], continue_final_message=True) == start + prefix["content"]
    text_only = [{"role": "user", "content": "Hi?"}]
    assert render(text_only, add_generation_prompt=True) == start.replace(image, "") + "<think>\n"
    two = [
        {
            "role": "user",
            "content": [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "x"}],
        }
    ]
    assert render(two).count("<|image_pad|>") == 2
    answered = [user, {"role": "assistant", "content": "<think>\nlong\n\n</think>\n\n5."}, user]
    assert "long" not in render(answered, add_generation_prompt=True)


def test_processor_leaves_pictures_their_size(folder):
    processor = _processor(folder)
    for level in range(1, 6):
        p = problem(1, level)
        grid = processor(images=[p.image], return_tensors="np")["image_grid_thw"][0]
        assert list(grid) == [1, p.image.height // 16, p.image.width // 16]


def _processor(folder):
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import (
        Qwen2VLImageProcessorPil,
    )

    return Qwen2VLImageProcessorPil.from_pretrained(folder)


def test_weights_are_small_and_the_draft_is_a_tenth():
    sizes = {r: (pocket.path(r) / "model.safetensors") for r in ROLES}
    if not all(p.exists() for p in sizes.values()):
        pytest.skip("the pair has not been exported")
    sizes = {r: p.stat().st_size for r, p in sizes.items()}
    assert sum(sizes.values()) <= 30 * 2**20 and sizes["target"] >= 10 * sizes["draft"]
