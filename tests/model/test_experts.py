"""The spellings of a layer's experts, and checkpoints whose experts are not those of the config."""

import json

import pytest
import torch
from cases import Runner, worst
from checkpoints import FUSED, make_qwen, one_by_one
from dream_r import _core
from safetensors.torch import load_file, save_file


@pytest.fixture(scope="module", params=[24, 32])
def moe(request, tmp_path_factory):
    """With experts of 32 gate_up_proj is square, and only down_proj tells how both lie."""
    return make_qwen("moe", tmp_path_factory.mktemp("moe"), moe_intermediate_size=request.param)


def transposed(name: str, tensor: torch.Tensor):
    fused = name.endswith(FUSED)
    return [(name, tensor.transpose(1, 2).contiguous() if fused else tensor)]


def rewrite(tiny, folder, spell):
    tensors = load_file(tiny.folder / "model.safetensors")
    made = dict(pair for name, tensor in tensors.items() for pair in spell(name, tensor))
    save_file({n: t.clone() for n, t in made.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text((tiny.folder / "config.json").read_text())
    return folder


@pytest.mark.parametrize("spell", [transposed, one_by_one])
@pytest.mark.parametrize("dtype", ["f32", "bf16", "i16"])
def test_every_spelling_is_the_same_model(moe, tmp_path, spell, dtype):
    p = moe.prompt("text", text=30)
    run = lambda folder: Runner(_core.model.load(str(folder), dtype), p).prefill()  # noqa: E731
    plain = run(moe.folder)
    assert (run(rewrite(moe, tmp_path, spell)) == plain).all()
    if dtype == "f32":
        assert worst(plain, moe.logits(p)) < 1e-4


def disagree(tiny, folder, spell, **values):
    rewrite(tiny, folder, spell)
    config = json.loads((folder / "config.json").read_text())
    config["text_config"] |= values
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError) as error:
        _core.model.load(str(folder), "f32")
    with pytest.raises(ValueError) as checking:
        _core.check_model(str(folder))
    assert str(checking.value) == str(error.value)
    return str(error.value)


def same(name, tensor):
    return [(name, tensor)]


@pytest.mark.parametrize(
    ("spell", "values", "says"),
    [
        (same, {"num_local_experts": 8}, "mlp.gate.weight is [6, 64], config.json wants [8, 64]"),
        (one_by_one, {"num_local_experts": 4}, "mlp.gate.weight is [6, 64]"),
        (same, {"moe_intermediate_size": 20}, f"{FUSED[0]} is [6, "),
        (one_by_one, {"moe_intermediate_size": 20}, "experts.0.gate_proj.weight is ["),
        (same, {"num_local_experts": 0}, "layers.1.mlp.gate_proj.weight is missing"),
        (same, {"mlp_only_layers": []}, "layers.3.mlp.gate.weight is missing"),
        (same, {"mlp_only_layers": [9]}, '"mlp_only_layers" names layer 9 of 6'),
        (same, {"num_experts_per_tok": 7}, '"num_experts_per_tok" 7 of 6 experts'),
    ],
)
def test_config_and_experts_disagree(moe, tmp_path, spell, values, says):
    assert says in disagree(moe, tmp_path, spell, **values)


def test_an_expert_is_missing(moe, tmp_path):
    lost = "layers.5.mlp.experts.4.up_proj.weight"

    def spell(name, tensor):
        return [pair for pair in one_by_one(name, tensor) if not pair[0].endswith(lost)]

    error = disagree(moe, tmp_path, spell)
    assert error.endswith(f"{lost} is missing")
