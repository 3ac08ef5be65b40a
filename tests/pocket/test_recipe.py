"""The recipe from the first stage to the model folders, in a minute of rehearsal."""

import os
import signal
import threading
import time

import pytest
from dream_r import pocket

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from train.pocket import recipe  # noqa: E402
from train.pocket.loop import Run  # noqa: E402
from train.pocket.recipe import DRAFT, STAGES, scaled, stage  # noqa: E402

SCALE = 0.003


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Sums in one order, so that runs can be compared bit by bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def weights(run):
    return {k: v.clone() for k, v in run.model.state_dict().items()}


def test_every_stage_follows_from_the_one_before(tmp_path, monkeypatch):
    monkeypatch.setattr(recipe, "PROBLEMS", {1: 3})  # an untrained draft rambles
    shipped = {
        role: (pocket.path(role) / "model.safetensors").stat().st_mtime_ns
        for role in ("target", "draft")
    }
    for name in STAGES:
        stage(name, tmp_path, scale=SCALE)
    lines = {
        name: (tmp_path / name / "log.jsonl").read_text().count("\n")
        for name in ("target", "draft", "judge", "polish", "doubt")
    }
    assert all(lines.values()) and (tmp_path / "made.jsonl").stat().st_size > 0
    for role, time_ns in shipped.items():
        assert (pocket.path(role) / "model.safetensors").stat().st_mtime_ns == time_ns
        _, info = transformers.Qwen3VLForConditionalGeneration.from_pretrained(
            tmp_path / "pair" / role, output_loading_info=True
        )
        assert not info["missing_keys"] and not info["unexpected_keys"]
    for name in STAGES[:-1]:  # done is done: nothing is trained again
        stage(name, tmp_path, scale=SCALE)
    assert lines == {n: (tmp_path / n / "log.jsonl").read_text().count("\n") for n in lines}


def test_a_stopped_run_goes_on_where_it_was(tmp_path):
    plan = scaled(DRAFT, 0.005)
    through, halves = Run(plan, tmp_path / "through"), Run(plan, tmp_path / "halves")
    through.train()
    halves.train(until=2)
    again = Run(plan, tmp_path / "halves")
    again.load(tmp_path / "halves" / "last.pt")
    assert again.step == 2
    again.train()
    for a, b in zip(weights(through).values(), weights(again).values(), strict=True):
        assert torch.equal(a, b)


def test_a_signal_saves_first_and_handlers_come_back(tmp_path):
    before = signal.getsignal(signal.SIGINT)
    run = Run(scaled(DRAFT, 1.0), tmp_path / "draft")
    (tmp_path / "PAUSE").touch()  # also while it sleeps
    timer = threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGTERM))
    timer.start()
    begun = time.monotonic()
    with pytest.raises(SystemExit, match="stopped at step"):
        run.train()
    assert (tmp_path / "draft" / "last.pt").exists() and time.monotonic() - begun < 60
    assert signal.getsignal(signal.SIGINT) is before
