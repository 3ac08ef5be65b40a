"""Checkpoints as they come (shards, older names, 16 bit) and damaged ones, refused by name."""

import json
import re
import shutil

import pytest
import torch
from cases import Runner, worst
from checkpoints import FAMILIES
from dream_r import _core
from families import QwenTiny
from safetensors.torch import load_file, save_file

NORM = "layers.1.input_layernorm.weight"


def variant(tiny) -> str:
    """Which of conftest's variants it is."""
    return tiny.folder.name.rstrip("0123456789")


@pytest.fixture
def logits(tiny):
    p = tiny.prompt("one image")

    def run(folder, dtype="f32"):
        return Runner(_core.model.load(str(folder), dtype), p).prefill()

    return run


@pytest.fixture
def edited(tiny, tmp_path):
    """A copy of the checkpoint whose tensors (or config) went through `edit`."""

    def make(edit=None, config=None):
        shutil.copytree(tiny.folder, tmp_path / "copy")
        file = tmp_path / "copy" / "model.safetensors"
        save_file((edit or dict)(load_file(file)), file)
        if config:
            path = tmp_path / "copy" / "config.json"
            values = json.loads(path.read_text())
            values = config(values) or values
            path.write_text(json.dumps(values))
        return tmp_path / "copy"

    return make


@pytest.fixture
def shards(tiny, tmp_path):
    """The checkpoint in several files."""
    folder = tmp_path / "shards"
    folder.mkdir()
    if isinstance(tiny, QwenTiny):
        tiny.reference.save_pretrained(folder, max_shard_size="100KB")
        return folder
    names = list(tensors := load_file(tiny.folder / "model.safetensors"))
    files = {name: f"model-{i % 3 + 1:05}-of-00003.safetensors" for i, name in enumerate(names)}
    for file in set(files.values()):
        save_file({n: t for n, t in tensors.items() if files[n] == file}, folder / file)
    index = {"metadata": {}, "weight_map": files}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    shutil.copy(tiny.folder / "config.json", folder)
    return folder


def test_shards(tiny, logits, shards):
    assert len(list(shards.glob("model-*.safetensors"))) > 2
    assert (logits(shards) == logits(tiny.folder)).all()


def test_a_shard_is_missing(shards):
    gone = max(shards.glob("model-*.safetensors"))
    gone.unlink()
    with pytest.raises(ValueError, match=gone.name):
        _core.model.load(str(shards), "f32")


ROOTS = {
    "qwen2_5": [{"model.": "model.language_model.", "visual.": "model.visual."}],
    "r": [
        {
            "model.language_model.": "language_model.model.",
            "model.vision_tower.vision_model.": "model.vision_tower.",
        },
        {
            "model.language_model.": "language_model.model.",
            "model.vision_tower.": "vision_tower.",
            "model.multi_modal_projector.": "multi_modal_projector.",
            "model.image_newline": "image_newline",
        },
    ],
    "qwen3": [
        {"model.language_model.": "language_model.model.", "model.visual.": "visual."},
        {"model.language_model.": "model.", "model.visual.": "visual."},
    ],
}


SPELLINGS = [(f, roots) for f in FAMILIES for roots in ROOTS.get(f, ROOTS["qwen3"])]


@pytest.mark.parametrize(("tiny", "roots"), SPELLINGS, indirect=["tiny"])
def test_other_roots(tiny, logits, edited, roots):
    def renamed(name):
        root = next((r for r in roots if name.startswith(r)), "")
        return roots.get(root, "") + name.removeprefix(root)

    folder = edited(lambda tensors: {renamed(n): t for n, t in tensors.items()})
    assert (logits(folder) == logits(tiny.folder)).all()


def test_bf16_source_is_packed_without_loss(logits, edited):
    folder = edited(lambda t: {k: v.to(torch.bfloat16) for k, v in t.items()})
    assert worst(logits(folder, "bf16"), logits(folder)) < 2.0**-5


def test_f16_source(tiny, logits, edited):
    folder = edited(lambda t: {k: v.to(torch.float16) for k, v in t.items()})
    assert worst(logits(folder), logits(tiny.folder)) < 2.0**-6


def older_qwen3(config):
    rope = config["text_config"].pop("rope_parameters")
    config["text_config"]["rope_theta"] = rope.pop("rope_theta")
    config["text_config"]["rope_scaling"] = rope


def older_qwen2_5(config):
    """The text's values at the top, as the published checkpoints have them."""
    text, vision = config.pop("text_config"), config["vision_config"]
    rope = text.pop("rope_parameters")
    vision["in_chans"] = vision.pop("in_channels")
    vision["spatial_patch_size"] = vision["patch_size"]
    del vision["rope_parameters"]
    older = {"rope_theta": rope["rope_theta"], "sliding_window": 32768}
    older["rope_scaling"] = {"type": "mrope", "mrope_section": rope["mrope_section"]}
    return {**text, **config, **older}


def older_r(config):
    """Without what a Qwen3Config and a SiglipVisionConfig have anyway."""
    text, vision = config["text_config"], config["vision_config"]
    for key in ("rope_parameters", "rms_norm_eps", "hidden_act", "layer_types"):
        del text[key]
    text |= {"rope_theta": 10000.0, "rope_scaling": None, "sliding_window": 4096}
    for key in ("num_channels", "hidden_act", "layer_norm_eps"):
        del vision[key]
    config["image_token_id"] = config.pop("image_token_index")
    del config["vision_feature_layer"], config["projector_hidden_act"]


def test_older_config_spelling(tiny, logits, edited):
    older = {"qwen2_5": older_qwen2_5, "r": older_r}.get(variant(tiny), older_qwen3)
    assert (logits(edited(config=older)) == logits(tiny.folder)).all()


def drop(name):
    return lambda t: {k: v for k, v in t.items() if k != name}


def put(name, tensor):
    return lambda t: {**t, name: tensor}


def refused(folder, what):
    """Loading fails with `what`, and so does a look at the headers alone, in the same words."""
    with pytest.raises(ValueError, match=what) as loading:
        _core.model.load(str(folder), "f32")
    with pytest.raises(ValueError) as checking:
        _core.check_model(str(folder))
    assert str(checking.value) == str(loading.value)
    assert "\n" not in str(loading.value) and str(folder) in str(loading.value)


@pytest.mark.parametrize("case", ["missing", "shape", "dtype", "unknown", "vision"])
def test_refused_tensors(tiny, edited, case):
    names = load_file(tiny.folder / "model.safetensors")
    norm = next(n for n in names if n.endswith(NORM))
    patch = next(n for n in names if "patch_embed" in n and n.endswith("weight"))
    bias = norm.replace("input_layernorm.weight", "self_attn.o_proj.bias")
    edit, what = {
        "missing": (drop(norm), f"tensor {norm} is missing"),
        "shape": (put(norm, torch.ones(3)), rf"tensor {norm} is \[3\], config.json wants \[64\]"),
        "dtype": (put(norm, torch.ones(64, dtype=torch.float64)), f"tensor {norm}: dtype F64"),
        "unknown": (put(bias, torch.ones(64)), f"{bias} is not understood"),
        "vision": (
            put(patch, names[patch][:, :2].contiguous()),
            rf"tensor {patch} is \[\d+, 2, .*config.json",
        ),
    }[case]
    refused(edited(edit), what)


def change(section, **values):
    def edit(config):
        (config[section] if section else config).update(values)

    return edit


def fewer_layers(config):
    config["text_config"]["num_hidden_layers"] -= 1
    if "deepstack_visual_indexes" in config["vision_config"]:  # more than text layers cannot be
        config["vision_config"]["deepstack_visual_indexes"] = [0]


@pytest.mark.parametrize("case", ["more layers", "fewer layers", "heads", "vocabulary", "unknown"])
def test_config_and_weights_disagree(tiny, edited, case):
    layers = tiny.config.text_config.num_hidden_layers
    edit, what = {
        "more layers": (
            change("text_config", num_hidden_layers=layers + 1),
            rf"tensor \S*layers.{layers}.\S* is missing",
        ),
        "fewer layers": (
            fewer_layers,
            rf"tensor \S*layers.{layers - 1}.\S* is not understood",
        ),
        "heads": (change("text_config", num_key_value_heads=4), r"tensor \S*k_proj\S* is \["),
        "vocabulary": (
            change("text_config", vocab_size=300),
            r"embed_tokens.weight is \[307, 64\]",
        ),
        "unknown": (
            change("", model_type="gemma3", architectures=["Gemma3ForConditionalGeneration"]),
            '"model_type" is "gemma3", only qwen3_vl',
        ),
    }[case]
    refused(edited(config=edit), what)


def test_headers_alone_are_checked_and_listed(tiny):
    _core.check_model(str(tiny.folder))
    tensors = load_file(tiny.folder / "model.safetensors")
    index = _core.read_index(str(tiny.folder))
    assert index == {n: ("F32", tuple(t.shape), t.numel() * 4) for n, t in tensors.items()}


def test_truncated_file(edited):
    folder = edited()
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match="truncated"):
        _core.model.load(str(folder), "f32")


def test_tokens_blocks_and_features_are_checked(tiny):
    model = _core.model.load(str(tiny.folder), "f32")
    session = _core.model.Session(model, blocks=2)
    row = _core.model.Row

    def rejected(what, *args, **kwargs):
        with pytest.raises(ValueError, match=what):
            session.forward([row(*args, **kwargs)], [])

    here = [[0, 0, 0]]
    rejected("token id 307 of 307", [307], here, [0])
    rejected("token id -1", [-1], here, [0])
    rejected("block 2 of 2", [1], here, [2])
    rejected("block -1 of 2", [1], here, [0], 0, [-1], 3)
    rejected("1 tokens, 0 positions", [1], [], [0])
    rejected("feature rows without", [1], here, [0], feature_rows=[0])
    with pytest.raises(ValueError, match="row 0, token 1"):
        session.forward([row([1], here, [0])], [(0, 1)])
    p = tiny.prompt("one image")
    features = session.encode_images(p.patches, p.grids)
    n = sum(p.types)
    rejected(f"feature row {n} of {n}", [1], here, [0], features=features, feature_rows=[n])
    with pytest.raises(ValueError, match="the grids want"):
        session.encode_images(p.patches[1:], p.grids)
    bad = re.escape("multiples of 2") if isinstance(tiny, QwenTiny) else r"has \d tiles, not 1"
    with pytest.raises(ValueError, match=bad):
        session.encode_images(p.patches, [(1, 3, 8)])
