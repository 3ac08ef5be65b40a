import dataclasses
import inspect

import pytest
from dream_r import Engine, EngineConfig, Request, SamplingParams
from dream_r.engine import as_request


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("alpha", 1.5, "alpha must be at least 0 and at most 1, not 1.5"),
        ("alpha", -0.1, "alpha must be at least 0"),
        ("alpha", float("nan"), "alpha must be a number"),
        ("window", 0, "window must be at least 1"),
        ("window", 2.5, "window must be a whole number"),
        ("proposals", -1, "proposals must be at least 0"),
        ("method", "magic", "method must be one of ar, specreason, fpsr"),
        ("race", "last", "race must be one of first, verdict"),
        ("mode", "", "mode must be one of"),
        ("dtype", "int4", "dtype must be one of auto, bf16, f16, i16, f32"),
        ("specreason_threshold", 10, "at most 9"),
        ("max_requests", 0, "max_requests must be at least 1"),
        ("device", "gpu", 'device must be "cpu", "cuda" or "cuda:<index>", not \'gpu\''),
        ("draft_device", "cuda:x", "draft_device must be"),
        ("dtype", "f16", "f16 is for CUDA devices: use bf16 or f32 on the CPU (device is cpu)"),
        ("target_threads", -1, "target_threads must be at least 0"),
    ],
)
def test_a_bad_setting_is_one_clear_line(field, value, says):
    with pytest.raises(ValueError) as error:
        EngineConfig(draft="pocket-draft", **{field: value})
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_f16_needs_a_cuda_device_for_both_models():
    def config(**given):
        return EngineConfig(draft="pocket-draft", dtype="f16", **given)

    with pytest.raises(ValueError, match=r"use bf16 or f32 on the CPU \(draft_device is cpu\)$"):
        config(device="cuda:0", draft_device="cpu")
    with pytest.raises(ValueError, match=r"\(device is cpu\)$"):
        config(draft_device="cuda")
    config(device="cuda:0")
    config(device="cuda:0", draft_device="cuda:1")
    config(device="cuda:0", draft_device="cpu", method="ar")


def test_i16_needs_the_cpu_for_both_models():
    def config(**given):
        return EngineConfig(draft="pocket-draft", dtype="i16", **given)

    with pytest.raises(ValueError) as error:
        config(device="cuda:1")
    says = "dtype i16 is for the CPU: use bf16 or f16 on a GPU (device is cuda:1)"
    assert str(error.value) == says
    with pytest.raises(ValueError, match=r"\(draft_device is cuda\)$"):
        config(draft_device="cuda")
    config()
    config(draft_device="cuda", method="ar")


def test_auto_is_for_every_device():
    for devices in ({}, {"device": "cuda:0"}, {"device": "cuda:0", "draft_device": "cpu"}):
        assert EngineConfig(draft="pocket-draft", **devices).dtype == "auto"


def test_speculation_needs_a_draft():
    with pytest.raises(ValueError, match="needs a draft"):
        EngineConfig(method="fpsr")
    EngineConfig(method="ar")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -1),
        ("top_p", 0),
        ("top_p", 1.1),
        ("top_k", -1),
        ("min_p", 2),
        ("repetition_penalty", 0),
        ("presence_penalty", 3),
        ("n", 0),
        ("seed", -1),
        ("stop", [""]),
        ("thinking_budget", -1),
        ("max_tokens", 0),
        ("images", "board.png"),
    ],
)
def test_a_bad_request_is_refused(field, value):
    with pytest.raises(ValueError, match=field):
        Request(question="How many?", **{field: value})


@pytest.mark.parametrize(
    "given",
    [{}, {"question": " \n"}, {"messages": []}, {"question": "a", "messages": [{"role": "user"}]}],
)
def test_a_request_asks_one_thing(given):
    with pytest.raises(ValueError, match=r"question|messages"):
        Request(**given)


def test_stop_is_always_a_tuple():
    assert SamplingParams(stop="x").stop == ("x",)
    assert SamplingParams(stop=["x", "y"]).stop == ("x", "y")


def test_requests_come_in_three_forms():
    request = Request(question="a")
    assert as_request("a") == as_request({"question": "a"}) == as_request(request) == request
    with pytest.raises(ValueError, match="no field 'temprature'"):
        as_request({"question": "a", "temprature": 0})


@pytest.mark.parametrize(
    ("method", "config"),
    [(Engine.__init__, EngineConfig), (Engine.generate, Request), (Engine.stream, Request)],
)
def test_signatures_repeat_their_config(method, config):
    """The explicit parameters and the dataclass are written twice; they must agree."""
    parameters = dict(list(inspect.signature(method).parameters.items())[1:])
    fields = {f.name: f.default for f in dataclasses.fields(config)}
    assert {name: p.default for name, p in parameters.items()} == fields
