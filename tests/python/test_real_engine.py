"""The package on the real runtime, with tiny random models."""

import os
import shutil
import signal
import subprocess
import sys
import time
import weakref
from pathlib import Path

import dream_r
import numpy as np
import pytest
from dream_r import AnswerPiece, Done, Step
from dream_r.pocket import problems
from PIL import Image
from small_checkpoint import write_checkpoint
from test_cli import ROOT, assert_one_line_and_2, dream_r_command
from test_images import bad_pictures
from tiny_weights import write_weights

pytest.importorskip("dream_r._core")
BUDGETS = {"thinking_budget": 60, "max_tokens": 12}


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    root = tmp_path_factory.mktemp("pair")
    for role, layers in (("target", 3), ("draft", 1)):
        write_weights(write_checkpoint(root / role), layers, seed=layers)
    return root / "target", root / "draft"


def options(pair, *rest):
    return [
        "generate",
        "--target",
        pair[0],
        "--draft",
        pair[1],
        "--thinking-budget",
        60,
        "--max-tokens",
        12,
        *rest,
    ]


def board(width=96, height=64):
    noise = np.random.default_rng(3).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(noise)


@pytest.mark.parametrize("padding", [0, 40])
def test_a_draft_may_pad_its_vocabulary_otherwise(pair, tmp_path, padding):
    draft = write_checkpoint(tmp_path / "draft")
    write_weights(draft, 1, seed=1, padding=padding)
    request = {"images": [board()], "temperature": 1.0, "seed": 1, **BUDGETS}
    with dream_r.Engine(pair[0], draft, alpha=0.0, race="verdict") as engine:
        r = engine.generate("How many?", **request)
    assert r.finish_reason in ("stop", "length")
    assert any(step.author == "draft" for step in r.steps)


@pytest.mark.parametrize("method", ["ar", "fpsr", "specreason"])
def test_a_request_runs_to_its_end(pair, method):
    with dream_r.Engine(*pair, method=method, dtype="f32") as engine:
        r = engine.generate("How many?", images=[board()], temperature=0, **BUDGETS)
    assert r.finish_reason in ("stop", "length")
    assert r.usage.image_tokens == 6
    assert 0 < r.usage.reasoning_tokens <= 60
    assert 0 < r.usage.answer_tokens <= 12
    written = sum(len(s.tokens) for s in r.steps if s.author != "forced")
    assert written == r.usage.reasoning_tokens
    assert r.text.startswith(r.steps[0].text)
    assert [s.index for s in r.steps] == list(range(len(r.steps)))
    assert all(0 <= s.begin <= s.end <= r.metrics.seconds for s in r.steps)


def test_auto_is_the_dtype_that_the_cpu_multiplies_fastest():
    """Bit for bit: a rho shows every dtype, where the tokens of two may agree."""
    from dream_r import _core

    p = problems.problem(0, 1, split="held-out")

    def written(dtype):
        with dream_r.Engine("pocket", "pocket-draft", race="verdict", dtype=dtype) as engine:
            r = engine.generate(p.question, images=[p.image], temperature=0, **BUDGETS)
        return [(step.tokens, step.rho) for step in r.steps]

    fastest = _core.fastest_dtype("cpu")
    dtypes = ("bf16", "i16", "f32")
    assert {d for d in dtypes if written(d) == written("auto")} == {fastest}


def test_nothing_accepted_equals_the_target_alone(pair):
    texts = []
    for settings in (
        {"method": "ar"},
        {"alpha": 1.0},
        {"alpha": 1.0, "race": "verdict"},
        {"alpha": 1.0, "verify": "separate", "mode": "hedged"},
    ):
        with dream_r.Engine(*pair, dtype="f32", **settings) as engine:
            r = engine.generate("How many?", images=[board()], temperature=0, **BUDGETS)
            texts.append(r.text)
    assert len(set(texts)) == 1


def test_seed_and_verdict_race_repeat_themselves(pair):
    with dream_r.Engine(*pair, race="verdict", alpha=0.3) as engine:
        ask = {"question": "How many?", "temperature": 1.0, "seed": 5, **BUDGETS}
        alone = engine.generate(**ask).text
        crowd = engine.generate_many([ask, *[{**ask, "seed": s} for s in range(6, 12)], ask])
    assert crowd[0].text == crowd[-1].text == alone
    assert len({r.text for r in crowd}) > 2


def test_a_stream_and_its_result_agree(pair):
    with dream_r.Engine(*pair) as engine:
        events = list(engine.stream("How many?", **BUDGETS, seed=1))
    assert isinstance(events[-1], Done)
    assert (
        "".join(e.text for e in events if isinstance(e, Step | AnswerPiece))
        == events[-1].result.text
    )


def test_cancel_frees_the_request(pair):
    with dream_r.Engine(*pair) as engine:
        stream = engine.stream(
            "How many?", thinking_budget=700, max_tokens=200, seed=1, ignore_eos=True
        )
        next(stream)
        engine.cancel(stream.id)
        assert list(stream)[-1].result.finish_reason == "cancelled"
        deadline = time.monotonic() + 5
        while engine.stats()["requests"] and time.monotonic() < deadline:
            time.sleep(0.01)
        assert engine.stats()["requests"] == 0


def test_a_request_lets_go_of_its_picture(pair):
    with dream_r.Engine(*pair, prefix_cache=False) as engine:
        prepared = engine._prepare(
            dream_r.Request(question="How many?", images=[board()], **BUDGETS)
        )
        pixels = weakref.ref(prepared.target.pixels.patches)
        engine._submit(prepared, 0).finish()
        del prepared
        deadline = time.monotonic() + 5
        while pixels() is not None and time.monotonic() < deadline:
            time.sleep(0.01)
            engine.generate("And now?", **BUDGETS)  # whoever comes next collects what came back
        assert pixels() is None


def test_an_engine_that_is_closed_while_a_stream_runs(pair):
    engine = dream_r.Engine(*pair)
    stream = engine.stream("How many?", thinking_budget=700, max_tokens=200, ignore_eos=True)
    next(stream)
    engine.close()
    assert list(stream)[-1].result.finish_reason == "cancelled"


def test_trace_names_the_lanes(pair):
    with dream_r.Engine(*pair, trace=True) as engine:
        engine.generate("How many?", **BUDGETS)
        spans = engine.trace()
    assert {"draft", "target"} <= {s.lane for s in spans} <= {"draft", "target", "verify"}
    assert all(s.end >= s.begin for s in spans)


# The bad input of a user: one clear line, exit code 2, nothing half-done.


@pytest.mark.parametrize(
    ("rest", "says"),
    [
        ([""], "the question is empty"),
        (["word " * 2000], "the prompt has"),
        (["--alpha", "1.01", "hi"], "alpha must be"),
        (["--window", "0", "hi"], "window must be"),
        (["--target", "nowhere", "hi"], "no such folder"),
        (["--frobnicate", "hi"], "--frobnicate"),
        (["--dtype", "f16", "hi"], "dtype f16 is for CUDA devices: use bf16 or f32 on the CPU"),
        (["--dtype", "i16", "--device", "cuda", "hi"], "dtype i16 is for the CPU: use bf16 or f16"),
        (["--target-kv-tokens", 10**11, "hi"], "of memory are free"),
        (["--target-kv-tokens", 32, "hi"], ""),
    ],
)
def test_bad_settings(pair, rest, says):
    assert_one_line_and_2(dream_r_command(*options(pair, *rest)), says)


def test_f16_is_refused_on_the_cpu_by_the_loader_too(pair):
    from dream_r import _core

    with pytest.raises(ValueError, match=r"^dtype f16 is for CUDA devices: use bf16 or f32"):
        _core.load_model(str(pair[0]), "f16")
    with pytest.raises(ValueError, match=r'^dtype "f8", f32, bf16, f16 or i16 wanted$'):
        _core.load_model(str(pair[0]), "f8")


def test_bad_pictures(pair, tmp_path):
    for path, says in bad_pictures(tmp_path):
        assert_one_line_and_2(dream_r_command(*options(pair, "--image", path, "hi")), says)


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        *[
            (name, "missing")
            for name in (
                "config.json",
                "tokenizer.json",
                "model.safetensors",
                "preprocessor_config.json",
            )
        ],
        *[
            (name, how)
            for how in ("empty", "cut")
            for name in (
                "config.json",
                "tokenizer.json",
                "model.safetensors",
                "tokenizer_config.json",
            )
        ],
    ],
)
@pytest.mark.parametrize("role", [0, 1])
def test_a_folder_with_a_missing_or_damaged_file(pair, tmp_path, role, file, damage):
    broken = list(pair)
    broken[role] = shutil.copytree(pair[role], tmp_path / "broken")
    path = broken[role] / file
    data = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes(b"" if damage == "empty" else data[: len(data) // 2])
    board().save(tmp_path / "a.png")
    done = dream_r_command(*options(broken, "--image", tmp_path / "a.png", "hi"))
    assert_one_line_and_2(done)
    if file.startswith("model"):
        assert "safetensors" in done.stderr or "weights" in done.stderr
    else:
        assert file.removesuffix(".json") in done.stderr or "chat template" in done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_ctrl_c_in_the_command_line(pair):
    arguments = options(pair, "--ignore-eos", "--thinking-budget", 10, "--max-tokens", 900, "hi")
    child = subprocess.Popen(
        [sys.executable, "-u", "-m", "dream_r", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    first = child.stdout.readline()
    child.send_signal(signal.SIGINT)
    out, errors = child.communicate(timeout=60)
    assert errors == b""
    assert child.returncode == 130
    assert first.startswith(b"[")
    assert b"cancelled" in out


def test_the_tree_is_left_clean(pair, tmp_path):
    """A refused command writes nothing."""
    done = subprocess.run(
        [sys.executable, "-m", "dream_r", "demo", "--target", "nowhere", "--draft", str(pair[1])],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert_one_line_and_2(done, "no such folder")
    assert list(Path(tmp_path).iterdir()) == []
