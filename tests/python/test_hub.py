import json
import shutil
from pathlib import Path

import hub_server
import pytest
from dream_r.checkpoint import resolve
from dream_r.hub import HubId, check_files
from hub_server import in_a_process

RESOLVE = """
import json, sys
from dream_r.checkpoint import resolve
for name in sys.argv[1:]:
    try:
        print(json.dumps(str(resolve(name).folder)))
    except ValueError as error:
        print(json.dumps({"error": str(error)}))
"""


def resolved(home, *names, **environment):
    done = in_a_process(RESOLVE, home, *names, **environment)
    return [json.loads(line) for line in done.stdout.splitlines()], done.stderr


def test_ids():
    assert HubId.of("Qwen/Qwen3-VL-2B-Thinking") == HubId("Qwen/Qwen3-VL-2B-Thinking", "main")
    assert HubId.of("a/b@v1.0") == HubId("a/b", "v1.0")
    assert HubId.of("a/b@refs/pr/1") == HubId("a/b", "refs/pr/1")
    for other in ("pocket", "a/b/c", "/a/b", "./a", "../b", "a/.b", "~/a", "a/b@", "a b/c"):
        assert HubId.of(other) is None, other


def test_a_download_resumes_is_cached_and_takes_no_code(hub, tmp_path):
    (first, again), said = resolved(
        tmp_path, "made/up", "made/up@v1", HF_ENDPOINT=hub.endpoint, HF_HUB_DISABLE_XET="1"
    )
    folder = Path(first)
    assert again == first  # both revisions are the same commit
    assert "%" not in said  # a progress bar is for terminals
    for name in ("model.safetensors", hub_server.BIG):
        assert (folder / name).read_bytes() == hub.models["made/up"][name]
    first_try, second = [
        span for how, path, span in hub.asked if how == "GET" and path.endswith(hub_server.BIG)
    ]
    assert first_try is None
    assert int(second.removeprefix("bytes=").removesuffix("-")) > 0
    taken = {path.name for path in folder.iterdir()}
    assert taken == set(hub.models["made/up"]) - set(hub_server.EXTRA)
    dead = {"HF_ENDPOINT": "http://127.0.0.1:9"}  # nobody listens there
    assert resolved(tmp_path, "made/up", **dead)[0] == [first]
    assert resolved(tmp_path, "made/up", HF_HUB_OFFLINE="1")[0] == [first]


def test_what_cannot_be_had_is_one_clear_line(hub, tmp_path):
    wanted = {
        "made/absent": "no such folder, nor such a model",
        "made/up@v2": "no revision v2",
        "made/gated": "ask for it at .*/made/gated and set HF_TOKEN",
        "made/pickled": r"only pickled weights \(pytorch_model.bin\).*safetensors only",
        "made/bare": "there is no config.json",
        "made/broken": "answered 500; try again later",
        "made/huge": "1000000000.0 GB to download, but",
    }
    found, _ = resolved(tmp_path, *wanted, HF_ENDPOINT=hub.endpoint)
    assert_says(found, wanted)


def test_a_token_opens_what_is_gated(hub, tmp_path):
    environment = {"HF_ENDPOINT": hub.endpoint, "HF_TOKEN": hub_server.TOKEN}
    (folder,), _ = resolved(tmp_path, "made/gated", **environment)
    assert (Path(folder) / "config.json").is_file()


def test_no_connection_and_nothing_cached(tmp_path):
    dead, _ = resolved(tmp_path, "made/up", HF_ENDPOINT="http://127.0.0.1:9")
    assert_says(dead, {"made/up": r"not in the cache, and http://127.0.0.1:9 cannot be reached"})
    offline, _ = resolved(tmp_path, "made/up", HF_HUB_OFFLINE="1")
    assert_says(offline, {"made/up": "not in the cache .* HF_HUB_OFFLINE forbids"})


def assert_says(found, wanted):
    import re

    for answer, (name, says) in zip(found, wanted.items(), strict=True):
        assert isinstance(answer, dict), (name, answer)
        assert re.search(says, answer["error"]), answer
        assert answer["error"].startswith(f"model {name}: ")
        assert "\n" not in answer["error"]


def test_a_cache_as_huggingface_hub_lays_it_out_is_enough(checkpoint_folder, tmp_path):
    repo = tmp_path / "hub" / "models--some--model"
    folder = shutil.copytree(checkpoint_folder, repo / "snapshots" / hub_server.COMMIT)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(hub_server.COMMIT)
    found, _ = resolved(tmp_path, "some/model", HF_HUB_OFFLINE="1")
    assert found == [str(folder)]


def test_a_folder_wins_over_a_hub_id(checkpoint_folder, tmp_path, monkeypatch):
    shutil.copytree(checkpoint_folder, tmp_path / "some" / "model")
    monkeypatch.chdir(tmp_path)
    assert resolve("some/model").folder == Path("some/model")


def test_pickles_are_refused_beside_nothing_else():
    with pytest.raises(ValueError, match="safetensors only"):
        check_files("m", ["config.json", "model.pt"])
    check_files("m", ["config.json", "model.pt", "model.safetensors"])


def test_a_full_disk_is_told(monkeypatch):
    import errno

    import huggingface_hub
    from dream_r import hub

    def full(*arguments, **settings):
        if settings.get("local_files_only"):
            raise huggingface_hub.errors.LocalEntryNotFoundError("not here")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", full)
    monkeypatch.setattr(hub, "look", lambda wanted: hub.Listing({"config.json": 2}, {}))
    with pytest.raises(ValueError, match="model made/up: the disk is full: make room in"):
        resolve("made/up")


def test_a_built_in_pair_never_imports_huggingface_hub(tmp_path):
    code = (
        "import sys, dream_r\n"
        "with dream_r.Engine('pocket', 'pocket-draft', max_requests=1) as e:\n"
        "    e.generate('How many stars are there?', thinking_budget=4, max_tokens=4)\n"
        "print('huggingface_hub' in sys.modules)"
    )
    assert in_a_process(code, tmp_path).stdout == "False\n"


@pytest.mark.parametrize("tokenizer", ["tokenizer.json", "vocab.json"])
def test_code_of_a_checkpoint_is_never_run(checkpoint_folder, tmp_path, tokenizer):
    folder = shutil.copytree(checkpoint_folder, tmp_path / "own")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "trap", "auto_map": {"AutoConfig": "trap.Config"}}
    (folder / "config.json").write_text(json.dumps(config))
    if tokenizer == "vocab.json":  # then transformers is asked to make the tokenizer
        (folder / "tokenizer.json").unlink()
        (folder / "vocab.json").write_text("{}")
        settings = {"auto_map": {"AutoTokenizer": ["trap.Tokenizer", None]}}
        (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": "x"}))
    (folder / "trap.py").write_text("open('sprung', 'w')\n")
    code = (
        "import sys, dream_r\n"
        "try:\n    dream_r.Engine(sys.argv[1], method='ar')\n"
        "except ValueError as error:\n    print(error)"
    )
    done = in_a_process(code, tmp_path, str(folder))
    says = "model_type" if tokenizer == "tokenizer.json" else "none can be made"
    assert says in done.stdout
    assert not (tmp_path / "sprung").exists()
