"""The Python side of the engine, on a runtime that plays a script."""

import dataclasses
import json
import math
import random

import dream_r
import fake_core
import pytest
from dream_r import AnswerPiece, Done, Step
from dream_r.result import Metrics, answer_of, boxed
from dream_r.stream import StopCutter


def test_generate_gives_a_whole_result(engine, board):
    r = engine.generate("How many red shapes are there?", images=[board], seed=7)
    assert (r.answer, r.finish_reason, r.seed) == ("5", "stop", 7)
    assert r.reasoning == "One.\n\nTwo."
    assert r.text == "One.\n\nTwo.\n\n</think>\n\nThe answer is \\boxed{5}."
    assert [s.author for s in r.steps] == ["draft", "target", "draft"]
    assert r.steps[0].rho == 0.97
    assert r.steps[1].rho is None
    assert r.steps[0].seconds == pytest.approx(0.08)
    assert r.metrics.acceptance == pytest.approx(2 / 3)
    assert r.metrics.ceiling == pytest.approx(3)
    assert r.metrics.tokens_wasted == 7
    assert r.metrics.lane_seconds["target"] == 0.2
    assert r.usage.image_tokens == 6
    assert r.usage.total_tokens == r.usage.prompt_tokens + r.usage.completion_tokens
    json.dumps(r.to_dict(), allow_nan=False)
    with pytest.raises(dataclasses.FrozenInstanceError):
        r.answer = "6"


def test_the_log_names_the_dtype(fake, checkpoint_folder, monkeypatch, caplog):
    monkeypatch.setattr(fake_core, "fastest_dtype", lambda device: f"fastest-on-{device}")
    for dtype, says in (("auto", "fastest-on-cpu"), ("f32", "f32")):
        caplog.clear()
        with caplog.at_level("INFO", "dream_r"):
            dream_r.Engine(checkpoint_folder, checkpoint_folder, dtype=dtype).close()
        line = f"{checkpoint_folder.name}: weights in {says} on cpu"
        assert caplog.messages.count(line) == 2


def test_the_runtime_gets_the_checkpoint_s_sampling(engine, fake):
    engine.generate("a")
    engine.generate("a", temperature=0, top_k=5, presence_penalty=0.5)
    first, second = fake.submitted
    assert (first.temperature, first.top_k, first.top_p) == (0.6, 20, 1.0)
    assert (second.temperature, second.top_k, second.presence_penalty) == (0, 5, 0.5)
    assert first.target_ids == first.draft_ids
    assert first.target_patches is None


def test_a_stream_is_steps_then_answer_then_done(engine):
    events = list(engine.stream(messages=[{"role": "user", "content": "a"}]))
    kinds = [type(e) for e in events]
    assert kinds[:3] == [Step] * 3
    assert set(kinds[3:-1]) == {AnswerPiece}
    assert kinds[-1] is Done
    text = "".join(e.text for e in events[:-1])
    assert text == events[-1].result.text


@pytest.mark.parametrize(
    ("stop", "kept"),
    [
        ("answer", "One.\n\nTwo.\n\n</think>\n\nThe "),
        ("Two", "One.\n\n"),
        ("\n\nT", "One."),  # begins in one step and ends in the next
        ("wo.\n\n</think>", "One.\n\nT"),
        ("The answer is \\boxed{6}", "One.\n\nTwo.\n\n</think>\n\nThe answer is \\boxed{5}."),
        ("One", ""),
    ],
)
def test_stop_cuts_at_its_first_place_and_nothing_is_retracted(engine, stop, kept):
    stream = engine.stream("a", stop=stop)
    events = list(stream)
    assert "".join(e.text for e in events[:-1]) == kept == stream.result.text
    assert stream.result.finish_reason == "stop"


def test_stop_cutter_on_random_texts():
    """Whatever the pieces: the text is cut at the stop string that is complete first."""
    rng = random.Random(0)
    for _ in range(3000):
        pieces = ["".join(rng.choices("ab\n", k=rng.randint(0, 4))) for _ in range(8)]
        stops = [
            "".join(rng.choices("ab\n", k=rng.randint(1, 5))) for _ in range(rng.randint(0, 3))
        ]
        text = "".join(pieces)
        ends = [(p + len(s), p) for s in stops if (p := text.find(s)) >= 0]
        cutter, got = StopCutter(stops), ""
        for i, piece in enumerate(pieces):
            item = AnswerPiece(piece) if i > 4 else Step(i, "draft", None, piece, (), 0, 0)
            got += "".join(x.text for x in cutter.push(item))
        got += "".join(x.text for x in cutter.finish())
        assert got == (text[: min(ends)[1]] if ends else text), (pieces, stops)
        assert cutter.found == bool(ends)


def test_cancel_keeps_what_was_committed(engine):
    stream = engine.stream("a")
    first = next(stream)
    engine.cancel(stream.id)
    rest = list(stream)
    assert first.text == "One.\n\n"
    assert rest[-1].result.finish_reason == "cancelled"
    assert rest[-1].result.text == "".join(s.text for s in rest[-1].result.steps)


def test_n_samples_share_a_seed(engine, fake):
    r = engine.generate("a", n=3)
    assert [s.answer for s in r.samples] == ["5"] * 3
    assert [q.index for q in fake.submitted] == [0, 1, 2]
    assert len({q.seed for q in fake.submitted}) == 1
    assert engine.generate("a").seed != r.seed
    with pytest.raises(ValueError, match="n > 1"):
        engine.stream("a", n=2)


def test_many_requests_keep_their_order(engine, board):
    results = engine.generate_many(
        ["a", {"question": "b", "images": [board]}, dream_r.Request(question="c", n=2)] * 30
    )
    assert len(results) == 90
    assert [r.usage.image_tokens for r in results[:3]] == [0, 6, 0]
    assert len(results[2].samples) == 2


def test_one_bad_request_of_many_cancels_the_rest(engine):
    with pytest.raises(ValueError, match="no such picture"):
        engine.generate_many(["a", {"question": "b", "images": ["absent.png"]}])


@pytest.mark.parametrize(("call", "stop"), [("wait", ()), ("next_event", ("word",))])
def test_ctrl_c_cancels_and_is_raised_again(engine, monkeypatch, call, stop):
    core, seen = engine._core, []
    plain, ask = getattr(core, call), core.cancel

    def interrupted(id, timeout):
        monkeypatch.setattr(core, call, plain)
        raise KeyboardInterrupt

    monkeypatch.setattr(core, call, interrupted)
    monkeypatch.setattr(core, "cancel", lambda id: (seen.append(id), ask(id)))
    with pytest.raises(KeyboardInterrupt):
        engine.generate("a", stop=stop)
    assert seen


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"thinking_budget": 5000}, "lower thinking_budget or max_tokens by"),
        ({"question": "word " * 3000}, "the prompt has .* tokens, more than the target's 4096"),
    ],
)
def test_what_does_not_fit_the_model_is_refused(engine, change, says):
    with pytest.raises(ValueError, match=says):
        engine.generate(**{"question": "a", **change})


def test_kv_beyond_memory_is_refused(fake, checkpoint_folder):
    with pytest.raises(MemoryError, match="GiB of memory are free; ask for at most"):
        dream_r.Engine(checkpoint_folder, checkpoint_folder, target_kv_tokens=10**12)


def test_a_device_that_is_not_there_is_refused_before_weights_are_read(fake, checkpoint_folder):
    with pytest.raises(RuntimeError, match="cuda:1: there is none"):
        dream_r.Engine(checkpoint_folder, checkpoint_folder, draft_device="cuda:1")


def test_open_caches_share_what_their_device_has_free(fake, monkeypatch):
    from types import SimpleNamespace

    from dream_r import build

    free = {"cpu": 2000, "cuda:0": 100_000, "cuda:1": 1000}
    monkeypatch.setattr(build, "free_memory", free.__getitem__)

    def model(device, cost):
        return SimpleNamespace(device=device, kv_bytes_per_token=cost, max_positions=50)

    config = dream_r.EngineConfig(draft="pocket-draft", max_requests=4)
    on_cpu = build.kv_tokens(config, model("cpu", 3), model("cpu", 1))
    assert on_cpu == (250, 250)  # half of what is free
    assert build.kv_tokens(config, model("cuda:0", 3), model("cuda:0", 1)) == (200, 200)  # enough
    assert build.kv_tokens(config, model("cuda:1", 9), model("cpu", 10)) == (100, 100)
    with pytest.raises(MemoryError, match="of the memory of cuda:1 are free; ask for at most 100"):
        asked = dataclasses.replace(config, target_kv_tokens=112)
        build.kv_tokens(asked, model("cuda:1", 9), None)


def test_a_closed_engine_says_so(fake, checkpoint_folder):
    with dream_r.Engine(checkpoint_folder, method="ar") as engine:
        engine.generate("a")
    engine.close()
    with pytest.raises(RuntimeError, match="closed"):
        engine.generate("a")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("so \\boxed{5}.", "5"),
        ("\\boxed{1} \\boxed{2}", "2"),
        ("\\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        ("none", None),
        ("\\boxed{1} \\boxed{2", "1"),
        ("\\boxed{}", ""),
    ],
)
def test_boxed(text, found):
    assert boxed(text) == found


def test_answers_without_a_box_are_the_text():
    assert answer_of("\n\nfive \n") == "five"


def test_metrics_without_verdicts():
    assert Metrics().acceptance is None
    assert Metrics().ceiling is None
    assert math.isinf(Metrics(accepted=3).ceiling)
