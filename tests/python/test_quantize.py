import json
import shutil

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("dream_r._core")
from dream_r import pocket  # noqa: E402
from dream_r.checkpoint import resolve  # noqa: E402
from dream_r.cli import main  # noqa: E402
from dream_r.quantize import calibration, quantize  # noqa: E402
from dream_r.quantize.gemm import quantise  # noqa: E402
from dream_r.quantize.layers import LINEARS, READERS, largest_group, quantise_layer  # noqa: E402
from dream_r.quantize.search import best_limits, best_scales, output_error  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

torch.set_num_threads(1)
ORDER = np.array([0, 2, 4, 6, 1, 3, 5, 7])


def unpacked(words: np.ndarray) -> np.ndarray:
    """int32 [rows, n/8] -> [rows, n], as AutoAWQ's gemm kernels read it."""
    nibbles = words.view(np.uint32)[..., None] >> np.arange(0, 32, 4, np.uint32) & 15
    found = np.empty_like(nibbles)
    found[..., ORDER] = nibbles
    return found.reshape(len(words), -1)


def read_gemm(tensors, name: str, group: int) -> np.ndarray:
    """The weight [n, k] of a quantised linear, by numpy alone."""
    q, z = (
        unpacked(tensors[f"{name}.{part}"].numpy()).astype(np.float32)
        for part in ("qweight", "qzeros")
    )
    s = tensors[f"{name}.scales"].numpy().astype(np.float32)
    return ((q - z.repeat(group, 0)) * s.repeat(group, 0)).T


def test_the_gemm_layout_is_read_back():
    w = torch.randn(24, 128, generator=torch.Generator().manual_seed(0))
    made = quantise(w, 32)
    tensors = {f"l.{name}": tensor for name, tensor in made.tensors().items()}
    assert tensors["l.qweight"].shape == (128, 3)
    assert tensors["l.qzeros"].shape == (4, 3)
    assert tensors["l.scales"].shape == (4, 24)
    assert tensors["l.qweight"].dtype == torch.int32
    np.testing.assert_array_equal(read_gemm(tensors, "l", 32), made.values().numpy())
    step = made.s.float().repeat_interleave(32, 1)
    assert ((made.values() - w).abs() <= 0.51 * step + 1e-6).all()


@pytest.mark.parametrize("value", [0.0, 1.0, -3.0])
def test_one_sided_and_constant_groups_keep_their_values(value):
    made = quantise(torch.full((8, 32), value), 32).values()
    assert (made - value).abs().max() <= 1e-3 * abs(value)


def uneven(rows, k, seed):
    """Inputs a few of which are large, as activations are."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, k, generator=generator) * (
        torch.rand(k, generator=generator).pow(6) * 20 + 0.1
    )


def test_scales_and_limits_lower_the_error():
    w = torch.randn(48, 128, generator=torch.Generator().manual_seed(1))
    x, unseen = uneven(256, 128, 2)[:128], uneven(256, 128, 2)[128:]
    s = best_scales(x, [w], 32)
    limits = best_limits(x / s, w * s, 32)
    plain = output_error(unseen, w, quantise(w, 32).values())
    scaled = output_error(unseen, w, quantise(w * s, 32).values() / s)
    clipped = output_error(unseen, w, quantise(w * s, 32, limits).values() / s)
    assert scaled < 0.7 * plain
    assert clipped < scaled


def outputs(weights, x):
    """A toy layer with grouped heads: v -> (two heads share one) -> o, up -> down."""
    normed = x * weights["input_layernorm.weight"]
    v = normed @ weights["self_attn.v_proj.weight"].T
    o = v.view(len(x), -1, 1, 32).expand(-1, -1, 2, -1).reshape(len(x), -1)
    post = x * weights["post_attention_layernorm.weight"]
    up = post @ weights["mlp.up_proj.weight"].T
    return {
        "self_attn.q_proj": normed,
        "self_attn.o_proj": o,
        "mlp.gate_proj": post,
        "mlp.down_proj": up,
    }


def toy_layer():
    generator = torch.Generator().manual_seed(3)
    widths = {name: (64, 64) for name in LINEARS}
    widths |= {"self_attn.k_proj": (32, 64), "self_attn.v_proj": (32, 64)}
    widths |= {"mlp.gate_proj": (96, 64), "mlp.up_proj": (96, 64), "mlp.down_proj": (64, 96)}
    layer = {f"{n}.weight": torch.randn(s, generator=generator) / 8 for n, s in widths.items()}
    for norm in ("input_layernorm", "post_attention_layernorm"):
        layer[f"{norm}.weight"] = 1 + 0.1 * torch.randn(64, generator=generator)
    return layer


def test_a_layer_is_the_same_function_after_its_scales():
    before, after, x = toy_layer(), toy_layer(), uneven(128, 64, 4)
    plain = {name: quantise(before[f"{name}.weight"], 32).values() for name in LINEARS}
    quantise_layer(after, outputs(before, x), 32, 32)
    rebuilt = {
        f"{name}.weight": torch.from_numpy(read_gemm(after, name, 32)) for name in LINEARS
    } | {name: tensor for name, tensor in after.items() if "norm" in name}
    inputs, scaled = outputs(before, x), outputs(rebuilt, x)
    for first, names in READERS.items():
        for name in names:
            exact = inputs[first] @ before[f"{name}.weight"].T
            ours = scaled[first] @ rebuilt[f"{name}.weight"].T
            rounded = inputs[first] @ plain[name].T
            if name in ("self_attn.v_proj", "mlp.up_proj"):  # they carry the next scales
                continue
            assert (ours - exact).square().mean() < 1.6 * (rounded - exact).square().mean(), name


def test_the_group_that_fits():
    assert largest_group({256, 704}, 128) == 64
    assert largest_group({256, 512}, 128) == 128
    assert largest_group({256, 512}, 32) == 32
    with pytest.raises(ValueError, match="divides the widths 80"):
        largest_group({80}, 128)


def test_calibration_files(tmp_path):
    file = tmp_path / "mine.jsonl"
    file.write_text('{"question": "a", "images": ["b.png"]}\n\n{"question": "c", "response": "d"}')
    first, second = calibration.read(file)
    assert first.images == [tmp_path / "b.png"]
    assert (second.question, second.response) == ("c", "d")
    for line, says in (
        ("{", "mine.jsonl:1: not JSON"),
        ("[]", 'an object with a "question"'),
        ('{"question": "a", "answer": "b"}', "'answer' must be one of"),
        ("", "no calibration prompts"),
    ):
        file.write_text(line)
        with pytest.raises(ValueError, match=says):
            calibration.read(file)


@pytest.fixture(scope="module")
def quantised(tmp_path_factory):
    out = tmp_path_factory.mktemp("w4") / "pocket"
    samples = list(calibration.drawn(12))
    assert quantize(resolve("pocket"), out, samples) == 64
    return out


def test_the_pocket_target_in_four_bits(quantised):
    """Held-out activations: the output error is below that of plain rounding."""
    source = load_file(pocket.path("target") / "model.safetensors")
    made = load_file(quantised / "model.safetensors")
    config = json.loads((quantised / "config.json").read_text())["quantization_config"]
    assert (config["quant_method"], config["version"], config["group_size"]) == ("awq", "gemm", 64)
    kept = {n for n in source if not n.endswith(tuple(f"{linear}.weight" for linear in LINEARS))}
    kept |= {n for n in source if ".visual." in n}
    for name in kept:
        if "layernorm" not in name:
            assert torch.equal(source[name], made[name]), name
    seen = calibration.inputs_of(resolve("pocket"), list(calibration.drawn(20))[12:], int)
    better = plain = 0.0
    for i, inputs in enumerate(seen):
        at = f"model.language_model.layers.{i}."
        for first, norm in (
            ("self_attn.q_proj", "input_layernorm"),
            ("mlp.gate_proj", "post_attention_layernorm"),
        ):
            x = inputs[first]
            scale = source[f"{at}{norm}.weight"].float() / made[f"{at}{norm}.weight"]
            name = f"{at}{first}"
            w = source[f"{name}.weight"].float()
            ours = torch.from_numpy(read_gemm(made, name, 64)) / scale
            better += output_error(x, w, ours) / float((x @ w.T).square().sum())
            rounded = quantise(w, 64).values()
            plain += output_error(x, w, rounded) / float((x @ w.T).square().sum())
    assert better < plain


def test_it_runs_and_is_checked_from_its_headers(quantised):
    import dream_r
    from dream_r import inspection

    found = inspection.inspect(resolve(quantised))
    assert found.problem is None
    assert found.parameters == inspection.inspect(resolve("pocket")).parameters
    assert found.quantisation == "awq, gemm, bits 4, group_size 64"
    sample = next(calibration.drawn(1))
    request = {"images": sample.images, "temperature": 0, "thinking_budget": 24, "max_tokens": 8}
    with dream_r.Engine(quantised, method="ar") as engine:
        ours = engine.generate(sample.question, **request)
    with dream_r.Engine("pocket", method="ar") as engine:
        theirs = engine.generate(sample.question, **request)
    assert ours.steps[0].text == theirs.steps[0].text


def test_a_broken_quantised_tensor_is_told_from_its_headers(quantised, tmp_path):
    from dream_r import _core
    from safetensors.torch import save_file

    own = shutil.copytree(quantised, tmp_path / "own")
    tensors = load_file(own / "model.safetensors")
    del tensors["model.language_model.layers.2.mlp.up_proj.scales"]
    save_file(tensors, own / "model.safetensors")
    with pytest.raises(ValueError, match=r"up_proj\.scales is missing") as checking:
        _core.check_model(str(own))
    with pytest.raises(ValueError) as loading:
        _core.load_model(str(own))
    assert str(checking.value) == str(loading.value)


def test_the_folder_is_whole_and_never_overwritten(quantised, tmp_path, capsys):
    source = pocket.path("target")
    for name in ("tokenizer.json", "chat_template.jinja", "scoring.json", "reasoning.txt"):
        assert (quantised / name).read_bytes() == (source / name).read_bytes()
    assert not list(quantised.parent.glob(".*"))
    (tmp_path / "there").mkdir()
    with pytest.raises(ValueError, match="exists; give another folder or --force"):
        quantize(resolve("pocket"), tmp_path / "there", list(calibration.drawn(1)))
    with pytest.raises(ValueError, match="is quantised already"):
        quantize(resolve(quantised), tmp_path / "again", list(calibration.drawn(1)))
    own = shutil.copytree(source, tmp_path / "own")
    with pytest.raises(ValueError, match="is the folder to read from"):
        quantize(resolve(own), own, list(calibration.drawn(1)), force=True)
    assert main(["quantize", "pocket", str(tmp_path / "x"), "--samples", "0"]) == 2
    assert "--samples must be at least 1" in capsys.readouterr().err


def test_nothing_half_written_is_left(tmp_path, monkeypatch):
    import dream_r.quantize as module

    def full(tensors, path, metadata):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "save_file", full)
    with pytest.raises(ValueError, match="cannot be written: No space left"):
        module._write(resolve("pocket"), tmp_path / "out", {}, 128)
    assert not list(tmp_path.iterdir())
