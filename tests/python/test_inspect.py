import json
import shutil

import pytest
from dream_r import inspection
from dream_r.checkpoint import resolve
from dream_r.cli import main
from hub_server import in_a_process
from small_checkpoint import write_checkpoint
from tiny_weights import FFN, HEAD, HEADS, HIDDEN, KV_HEADS, shapes, write_weights

pytest.importorskip("dream_r._core")
LAYERS = 2


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = write_checkpoint(tmp_path_factory.mktemp("inspect") / "whole")
    write_weights(folder, LAYERS, seed=0)
    return folder


@pytest.fixture
def own(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "own")


def rewritten(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return resolve(folder)


def test_what_a_checkpoint_is(whole):
    found = inspection.inspect(resolve(whole))
    vocabulary = json.loads((whole / "config.json").read_text())["text_config"]["vocab_size"]
    sizes = {}
    for name, shape in shapes(LAYERS, vocabulary).items():
        kind, n = "vision" if "visual" in name else "text", 1
        for side in shape:
            n *= side
        sizes[kind] = sizes.get(kind, 0) + n
    assert found.problem is None
    assert found.parameters == inspection.Parameters(
        sizes["text"], sizes["vision"], 0, sizes["text"]
    )
    total = sum(sizes.values())
    linear = LAYERS * HIDDEN * (3 * FFN + 2 * HEADS * HEAD + 2 * KV_HEADS * HEAD)
    assert found.weights == {
        "as stored": 4 * total,
        "bf16": 2 * total,
        "w4": 2 * (total - linear) + round(linear * 4.15625 / 8),
    }
    assert found.kv_bytes_per_token == 2 * 2 * LAYERS * KV_HEADS * HEAD
    assert (found.context, found.vocabulary) == (2048, vocabulary)
    assert found.thinking == "always: the prompt opens <think>"


def test_quantised_words_and_experts_are_counted():
    linear = {
        "l.q_proj.qweight": ("I32", (64, 4), 1024),
        "l.q_proj.qzeros": ("I32", (1, 4), 16),
        "l.q_proj.scales": ("F16", (1, 32), 64),
        "l.k_proj.weight_packed": ("I32", (32, 8), 1024),
        "l.k_proj.weight_shape": ("I64", (2,), 16),
    }
    assert inspection.count(linear, {}) == inspection.Parameters(64 * 32 * 2, 0, 0, 64 * 32 * 2)
    mixture = {
        "mlp.gate.weight": ("BF16", (4, 16), 128),
        "mlp.experts.gate_up_proj": ("BF16", (4, 16, 32), 4096),
    }
    for key in ("num_experts", "num_local_experts"):
        count = inspection.count(mixture, {key: 4, "num_experts_per_tok": 1})
        assert count == inspection.Parameters(64 + 2048, 0, 2048, 64 + 512)


@pytest.mark.parametrize("name", ["gate_up_proj", "down_proj", "0.gate_proj.weight"])
def test_experts_count_as_what_can_be_quantised(name):
    index = {f"mlp.experts.{name}": ("BF16", (2, 128, 16), 8192)}
    assert inspection._bytes(index)["w4"] < inspection._bytes(index)["bf16"] / 3


def test_the_quantisation_is_named():
    config = {"quantization_config": {"quant_method": "awq", "version": "gemm", "bits": 4}}
    assert inspection.quantisation(config) == "awq, gemm, bits 4"
    assert inspection.quantisation({"text_config": config}) == "awq, gemm, bits 4"
    assert inspection.quantisation({}) is None


def test_the_reason_is_the_one_that_loading_gives(own):
    import dream_r

    for folder in (rewritten(own, model_type="another_vl").folder, own):
        found = inspection.inspect(resolve(folder))
        with pytest.raises(ValueError) as error:
            dream_r.Engine(folder, method="ar")
        assert found.problem == str(error.value)
        assert "another_vl" in found.problem or "tokenizer.json" in found.problem
        (own / "tokenizer.json").write_text("{")


def test_a_folder_without_weights_is_still_told_about(checkpoint_folder):
    found = inspection.inspect(resolve(checkpoint_folder))
    assert found.parameters is None
    assert "neither model.safetensors nor" in found.problem
    assert found.tokens > 256


def test_pairs(whole, own):
    same = inspection.pair(resolve(whole), resolve(own))
    assert (same.same_tokenizer, same.problem) == (True, None)
    write_weights(own, LAYERS, seed=0, padding=40)
    padded = inspection.pair(resolve(whole), resolve(own))
    assert "vocabularies padded to" in padded.note
    content = json.loads((own / "tokenizer.json").read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    (own / "tokenizer.json").write_text(json.dumps(content))
    other = inspection.pair(resolve(whole), resolve(own))
    assert not other.same_tokenizer
    assert "whole steps only" in other.note
    assert other.problem is None


def test_the_command(whole, own, capsys):
    assert main(["inspect", str(whole), "--draft", str(own)]) == 0
    text = capsys.readouterr().out
    for word in ("parameters", "KiB a token", "2,048 tokens", "the same tokenizer", "as stored"):
        assert word in text
    assert main(["inspect", str(whole), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["model"]["pictures"] is True
    assert main(["inspect", "nowhere"]) == 2
    assert "no such folder" in capsys.readouterr().err


def test_a_model_of_the_hub_is_not_downloaded_to_look_at_it(hub, tmp_path):
    hub.asked.clear()
    code = "from dream_r.cli import main; main(['inspect', 'made/up', '--json'])"
    done = in_a_process(code, tmp_path, HF_ENDPOINT=hub.endpoint)
    found = json.loads(done.stdout)["model"]
    files = hub.models["made/up"]
    weights = sum(len(files[f]) for f in files if f.endswith(".safetensors") and "/" not in f)
    assert (found["in_cache"], found["weight_bytes"]) == (False, weights)
    assert found["download_bytes"] > weights
    assert not any("resolve" in path for _, path, _ in hub.asked)
