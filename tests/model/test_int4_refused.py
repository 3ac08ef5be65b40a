"""INT4 checkpoints that do not fit their config or are not understood: one line that names it."""

import json

import pytest
import torch
from dream_r import _core
from int4 import AWQ, LAYOUTS, make_quantised
from safetensors.torch import load_file, save_file

WORDS = ("qweight", "weight_packed")
SCALES = ("scales", "weight_scale")
ZEROS = ("qzeros", "weight_zero_point")
HAVE_ZEROS = ("awq", "asymmetric")


class Damaged:
    """A quantised checkpoint to change, and the message that loading it then gives."""

    def __init__(self, folder, awq: bool, to) -> None:
        self.awq, self._to = awq, to
        self.tensors = load_file(folder / "model.safetensors")
        self.config = json.loads((folder / "config.json").read_text())

    def first(self, kind: tuple[str, str], at: str = "layers.0.") -> str:
        """The first tensor of a kind: its name with AutoAWQ and with compressed-tensors."""
        suffix = kind[0] if self.awq else kind[1]
        return min(n for n in self.tensors if at in n and n.endswith("." + suffix))

    def message(self) -> str:
        """The same for the whole checkpoint and for its headers alone."""
        messages = {self._message(check) for check in (_core.model.load, _core.model.check)}
        assert len(messages) == 1
        return messages.pop()

    def message_of_values(self) -> str:
        """Of what the headers do not show."""
        return self._message(_core.model.load)

    def _message(self, check) -> str:
        save_file(self.tensors, self._to / "model.safetensors")
        (self._to / "config.json").write_text(json.dumps(self.config))
        with pytest.raises(ValueError) as error:
            check(str(self._to))
        assert "\n" not in str(error.value) and str(self._to) in str(error.value)
        return str(error.value)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = {}

    def folder(family, layout, **text):
        if (family, layout) not in made:
            root = tmp_path_factory.mktemp("int4")
            made[family, layout], _, _ = make_quantised(family, layout, root, **text)
        return made[family, layout]

    return folder


@pytest.fixture(params=LAYOUTS)
def layout(request):
    return request.param


@pytest.fixture
def dense(folders, layout, tmp_path):
    return Damaged(folders("tied", layout), LAYOUTS[layout][0] == AWQ, tmp_path)


@pytest.fixture
def experts(folders, layout, tmp_path):
    folder = folders("moe", layout, moe_intermediate_size=32)
    return Damaged(folder, LAYOUTS[layout][0] == AWQ, tmp_path)


def test_a_matrix_is_too_short(dense):
    name = dense.first(WORDS)
    dense.tensors[name] = dense.tensors[name][1:].clone()
    assert f"tensor {name} is [" in dense.message()
    assert dense.message().split("], ")[1].startswith("config.json wants [")


def test_another_group_size(dense):
    config = dense.config["quantization_config"]
    block = config if dense.awq else config["config_groups"]["group_0"]["weights"]
    block["group_size"] = 128
    assert dense.message().endswith(": group size 128 does not divide 64 inputs")


def test_a_scale_is_no_number(dense):
    name = dense.first(SCALES)
    dense.tensors[name][0, 0] = float("nan")
    assert dense.message_of_values().endswith(f"tensor {name}: scale 0 is nan")


@pytest.mark.parametrize("layout", HAVE_ZEROS)
def test_zero_points_are_missing(dense):
    for name in [n for n in dense.tensors if n.endswith(ZEROS)]:
        del dense.tensors[name]
    message = dense.message()
    assert "layers.0.self_attn.q_proj." in message and message.endswith("is missing")


@pytest.mark.parametrize("layout", ["asymmetric", "symmetric"])
def test_columns_in_an_order_of_their_own(dense):
    name = dense.first(WORDS).replace("packed", "g_idx")
    dense.tensors[name] = torch.arange(64, dtype=torch.int32)
    assert f"tensor {name}: columns in an order of their own" in dense.message()


@pytest.mark.parametrize("kind", ["words", "scales"])
def test_a_tensor_of_one_expert_is_missing(experts, kind):
    name = experts.first(WORDS if kind == "words" else SCALES, "layers.5.mlp.experts.4.up_proj.")
    del experts.tensors[name]
    assert experts.message().endswith(f"tensor {name} is missing")


@pytest.mark.parametrize("layout", HAVE_ZEROS)
def test_zero_points_of_one_expert_are_missing(experts):
    name = experts.first(ZEROS, "layers.1.mlp.experts.3.down_proj.")
    del experts.tensors[name]
    assert experts.message().endswith(f"tensor {name} is missing")


def test_experts_in_one_tensor(experts):
    """llm-compressor takes experts apart before it quantises them: of these no layout is known."""
    at = "model.language_model.layers.1.mlp.experts."
    stacks = {}
    for name in sorted(n for n in experts.tensors if n.startswith(at)):
        _, kind, suffix = name.removeprefix(at).split(".")
        fused = f"{at}{kind.replace('gate', 'gate_up')}.{suffix}"
        stacks.setdefault(fused, []).append(experts.tensors.pop(name))
    experts.tensors |= {name: torch.stack(parts) for name, parts in stacks.items()}
    name = experts.first(WORDS, at + "gate_up_proj.")
    assert f"tensor {name}: INT4 experts in one tensor are not supported" in experts.message()
