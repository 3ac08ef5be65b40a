"""INT4 checkpoints: packed tensors unpack exactly, and whole models give the logits of the same
models with dequantised weights. A w4 linear multiplies f32 activations with (q - z) * s in f32."""

import copy
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from cases import Runner, worst
from checkpoints import make_qwen
from dream_r import _core
from int4 import AWQ, PACKED, Int4, awq_words, packed_zeros, random_int4, words, write_checkpoint
from safetensors.torch import load_file, save_file

ops = _core.ops
LAYOUTS = {"awq": (AWQ, False), "asymmetric": (PACKED, False), "symmetric": (PACKED, True)}


def unpacked(weight) -> np.ndarray:
    """W[n, k], by multiplying with the identity."""
    return ops.linear(ops.Stream(1), np.eye(weight.k, dtype=np.float32), weight).T


@pytest.mark.parametrize("group", [32, 64, 128])
def test_awq_words_unpack_exactly(group):
    w = random_int4(24, 2 * group, group)
    ours = ops.pack_w4(ops.Stream(1), AWQ, awq_words(w.q), w.s.T, awq_words(w.z), group)
    assert np.array_equal(unpacked(ours), w.dense())


@pytest.mark.parametrize("group", [32, 64, 128])
@pytest.mark.parametrize("symmetric", [True, False])
def test_packed_words_unpack_exactly(group, symmetric):
    w = random_int4(21, 2 * group, group, symmetric)
    zeros = None if symmetric else packed_zeros(w.z)
    ours = ops.pack_w4(ops.Stream(1), PACKED, words(w.q), w.s, zeros, group)
    assert np.array_equal(unpacked(ours), w.dense())


def test_awq_words_are_those_of_the_library():
    spec = importlib.util.find_spec("awq")
    if spec is None:
        pytest.skip("autoawq is not installed")
    path = Path(spec.submodule_search_locations[0]) / "utils" / "packing_utils.py"
    spec = importlib.util.spec_from_file_location("packing_utils", path)
    library = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(library)
    w = random_int4(24, 256, 128)
    q, z = library.unpack_awq(*(torch.from_numpy(awq_words(a)) for a in (w.q, w.z)), 4)
    q, z = library.reverse_awq_order(q, z, 4)
    assert np.array_equal((q & 15).numpy().T, w.q)
    assert np.array_equal((z & 15).numpy().T, w.z)


@pytest.mark.parametrize("symmetric", [True, False])
def test_the_librarys_packed_tensors_unpack_exactly(symmetric):
    pytest.importorskip("compressed_tensors")
    from compressed_tensors.compressors.pack_quantized import PackedQuantizationCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    w = random_int4(24, 192, 64, symmetric)
    args = QuantizationArgs(num_bits=4, strategy="group", group_size=64, symmetric=symmetric)
    scheme = QuantizationScheme(targets=["Linear"], weights=args)
    state = {
        "weight": torch.from_numpy(w.dense()),
        "weight_scale": torch.from_numpy(w.s),
        "weight_zero_point": torch.from_numpy(w.z - 8).to(torch.int8),
    }
    state = PackedQuantizationCompressor.compress(state, scheme)
    zeros = None if symmetric else state["weight_zero_point"].numpy()
    scales = state["weight_scale"].numpy()
    ours = ops.pack_w4(ops.Stream(1), PACKED, state["weight_packed"].numpy(), scales, zeros, 64)
    theirs = PackedQuantizationCompressor.decompress(state, scheme)["weight"].numpy()
    assert np.array_equal(unpacked(ours), theirs)
    assert np.array_equal(theirs, w.dense())


@pytest.fixture(scope="module", params=["tied", "untied"])
def tiny(request, tmp_path_factory):
    return make_qwen(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module", params=LAYOUTS)
def quantised(request, tiny, tmp_path_factory):
    """A quantised copy of the tiny model, and transformers' model of its weights dequantised. The
    down projection (104 inputs), the head and, here and there, vision linears stay as they are."""
    layout, symmetric = LAYOUTS[request.param]
    modules = tiny.reference.named_modules()
    linears = [n for n, m in modules if isinstance(m, torch.nn.Linear) and n != "lm_head"]
    folder = tmp_path_factory.mktemp("int4") / request.param
    dense = write_checkpoint(tiny.folder, linears, folder, layout, 32, symmetric)
    reference = copy.deepcopy(tiny.reference)
    missing = reference.load_state_dict(
        {name: torch.from_numpy(w) for name, w in dense.items()}, strict=False
    )
    assert not missing.unexpected_keys
    assert any("visual" in name for name in dense)
    assert any("gate_proj" in name for name in dense)
    assert not any("down_proj" in name for name in dense)
    return folder, type(tiny)(folder, reference)


def test_logits_equal_those_of_the_dequantised_model(quantised):
    folder, reference = quantised
    ours = _core.model.load(str(folder), "f32")
    for name in ("text", "one image"):
        p = reference.prompt(name)
        assert worst(Runner(ours, p).prefill(), reference.logits(p)) < 1e-4


def test_every_bit_is_that_of_our_f32_model_with_dequantised_weights(quantised, tmp_path):
    folder, reference = quantised
    reference.reference.save_pretrained(tmp_path)
    ours, dense = (_core.model.load(str(f), "f32") for f in (folder, tmp_path))
    assert ours.weight_bytes < dense.weight_bytes
    p = reference.prompt("one image")
    mine, theirs = Runner(ours, p), Runner(dense, p)
    assert np.array_equal(mine.prefill(), theirs.prefill())
    assert np.array_equal(mine.decode([5, 17]), theirs.decode([5, 17]))


def test_bf16_around_the_int4_layers(quantised):
    folder, reference = quantised
    p = reference.prompt("one image")
    ours = Runner(_core.model.load(str(folder), "bf16"), p)
    whole = ours.prefill()
    # As for bf16 weights: about 8 roundings of 2^-8 a text layer and 6 a vision layer.
    roundings = 8 * 4 + 6 * 4
    theirs = reference.logits(p)
    rms = np.sqrt(np.mean((whole - theirs) ** 2)) / np.std(theirs)
    assert 0 < rms < 2.0**-8 * roundings**0.5
    pieces = Runner(_core.model.load(str(folder), "bf16"), p).prefill(cuts=[1, 7])
    assert np.array_equal(whole, pieces)


def damaged(folder: Path, to: Path, change) -> str:
    """The message that loading gives after `change(tensors, config)`."""
    tensors, config = load_file(folder / "model.safetensors"), folder / "config.json"
    config = json.loads(config.read_text())
    change(tensors, config)
    save_file(tensors, to / "model.safetensors")
    (to / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError) as error:
        _core.model.load(str(to), "f32")
    assert "\n" not in str(error.value)
    return str(error.value)


def test_headers_alone_are_checked_too(quantised, tmp_path):
    folder, _ = quantised
    _core.model.check(str(folder))

    def short(tensors, _):
        name = first(tensors, ("qweight", "weight_packed"))
        tensors[name] = tensors[name][1:].clone()

    message = damaged(folder, tmp_path, short)
    assert "layers.0" in message and "config.json wants" in message
    with pytest.raises(ValueError) as error:
        _core.model.check(str(tmp_path))
    assert str(error.value) == message


def first(tensors: dict, suffix: str | tuple[str, ...]) -> str:
    return sorted(n for n in tensors if "layers.0" in n and n.endswith(suffix))[0]


def test_what_does_not_fit_is_refused_by_name(quantised, tmp_path):
    folder, _ = quantised
    awq = any(name.endswith("qweight") for name in load_file(folder / "model.safetensors"))
    suffix = "scales" if awq else "weight_scale"

    def other_group(_, config):
        block = config["quantization_config"]
        (block if awq else block["config_groups"]["group_0"]["weights"])["group_size"] = 128

    assert "group size 128 does not divide 64 inputs" in damaged(folder, tmp_path, other_group)

    def bad_scale(tensors, _):
        tensors[first(tensors, suffix)][0, 0] = float("nan")

    assert suffix + ": scale 0 is nan" in damaged(folder, tmp_path, bad_scale)

    def no_zeros(tensors, _):
        for name in [n for n in tensors if n.endswith(("qzeros", "zero_point"))]:
            del tensors[name]

    if awq or "weight_zero_point" in str(load_file(folder / "model.safetensors").keys()):
        message = damaged(folder, tmp_path, no_zeros)
        assert "q_proj." in message and message.endswith("is missing")


def test_columns_in_an_order_of_their_own_are_refused(quantised, tmp_path):
    folder, _ = quantised

    def order(tensors, _):
        name = first(tensors, "weight_packed").removesuffix("packed") + "g_idx"
        tensors[name] = torch.arange(64, dtype=torch.int32)

    if any(n.endswith("weight_packed") for n in load_file(folder / "model.safetensors")):
        assert "weight_g_idx: columns in an order" in damaged(folder, tmp_path, order)


def test_small_oracle_spreads_what_it_quantises():
    w = Int4(np.array([[0, 15] * 16]), np.array([[3]]), np.array([[0.5]], dtype=np.float32))
    assert w.dense()[0, :2].tolist() == [-1.5, 6.0]
