"""INT4 checkpoints of every family: the logits of the same model with dequantised weights. Tiles of
AMX round what INT4 layers read to bf16: there logits agree within those roundings."""

import json

import numpy as np
import pytest
from cases import Prompt, Runner, worst
from checkpoints import FAMILIES
from dream_r import _core
from int4 import LAYOUTS, make_quantised
from safetensors.torch import save_file

# Of each family, some of what is quantised; tensors of other shapes, the head and the routers stay
# as they are, so every checkpoint is a mixture.
QUANTISED = {
    "tied": ("visual.", "o_proj", "gate_proj"),
    "untied": ("visual.", "o_proj", "gate_proj"),
    "moe": ("layers.0.mlp.up_proj", "experts.5.gate_proj", "experts.0.down_proj"),
    "qwen2_5": ("q_proj", "v_proj", "up_proj"),  # the first two have biases
    "r": ("q_proj", "up_proj", "multi_modal_projector.linear_2"),
}
TILES = _core.cpu_isa() == "amx"
TEXT = {"moe": {"moe_intermediate_size": 32}}


@pytest.fixture(scope="module", params=LAYOUTS)
def layout(request):
    return request.param


@pytest.fixture(scope="module", params=FAMILIES)
def quantised(request, layout, tmp_path_factory):
    """A checkpoint, and transformers' model of its weights dequantised."""
    family, root = request.param, tmp_path_factory.mktemp("int4")
    folder, reference, names = make_quantised(family, layout, root, **TEXT.get(family, {}))
    for part in QUANTISED[family]:
        assert any(part in name for name in names)
    return folder, reference


def differ_by_roundings(ours: np.ndarray, p: Prompt, reference) -> bool:
    """As for bf16 weights: about 8 roundings of 2^-8 a text layer and 6 a vision layer. Those of
    i16 are smaller (but for the KV cache's)."""
    roundings = 8 * reference.config.text_config.num_hidden_layers
    roundings += 6 * reference.vision_layers if p.grids else 0
    theirs = reference.logits(p)
    rms = np.sqrt(np.mean((ours - theirs) ** 2)) / np.std(theirs)
    return 0 < rms < 2.0**-8 * roundings**0.5


def test_logits_equal_those_of_the_dequantised_model(quantised):
    folder, reference = quantised
    model = _core.model.load(str(folder), "f32")
    for name in ("text", "one image"):
        p = reference.prompt(name)
        ours = Runner(model, p).prefill()
        if TILES:
            assert differ_by_roundings(ours, p, reference)
        else:
            assert worst(ours, reference.logits(p)) < 1e-4


def sums_differ(p: Prompt, reference) -> float:
    """What the order of f32 sums may change, as a part of the logits' standard deviation. The
    partial sums of k products grow as a random walk, so their roundings, each of at most u = 2^-24,
    come to u * sqrt(k / 2) of the result's size at most (root mean square), and those of both
    orders together to u * sqrt(k). Errors of the linears of all layers (4 attention, 3 MLP; at most
    5 in a vision layer) add up in squares."""
    text = reference.config.text_config
    linears = 7 * text.num_hidden_layers + (5 * reference.vision_layers if p.grids else 0)
    k = max(shape for t in reference.tensors().values() if t.ndim == 2 for shape in t.shape[1:])
    return 2.0**-24 * (k * linears) ** 0.5


@pytest.mark.skipif(TILES, reason="tiles round what INT4 layers read: DREAM_R_ISA=avx512 runs it")
def test_our_f32_model_with_dequantised_weights_differs_by_roundings_of_f32(quantised, tmp_path):
    folder, reference = quantised
    weights = {name: tensor.clone() for name, tensor in reference.tensors().items()}
    save_file(weights, tmp_path / "model.safetensors")
    plain = json.loads((folder / "config.json").read_text())
    del plain["quantization_config"]
    (tmp_path / "config.json").write_text(json.dumps(plain))
    ours, dense = (_core.model.load(str(f), "f32") for f in (folder, tmp_path))
    assert ours.weight_bytes < dense.weight_bytes
    p = reference.prompt("one image")
    mine, theirs = (
        np.concatenate([run.prefill(), run.decode([5, 17])])
        for run in (Runner(ours, p), Runner(dense, p))
    )
    rms = np.sqrt(np.mean((mine - theirs) ** 2)) / np.std(theirs)
    assert rms < sums_differ(p, reference)


@pytest.mark.parametrize("dtype", ["bf16", "i16"])
def test_16_bits_around_the_int4_layers(quantised, dtype):
    folder, reference = quantised
    p = reference.prompt("one image")
    ours = Runner(_core.model.load(str(folder), dtype), p)
    whole = ours.prefill()
    assert differ_by_roundings(whole, p, reference)
    pieces = Runner(_core.model.load(str(folder), dtype), p).prefill(cuts=[1, 7])
    assert np.array_equal(whole, pieces)
