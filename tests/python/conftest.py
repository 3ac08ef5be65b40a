"""Small checkpoints without weights, pictures, and an engine that plays a script."""

import shutil
import sys
from pathlib import Path

import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))
from small_checkpoint import write_checkpoint


@pytest.fixture(scope="session")
def checkpoint_folder(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("models") / "small")


@pytest.fixture(scope="session")
def hub(checkpoint_folder, tmp_path_factory):
    """A hub on 127.0.0.1 with a tiny model of random weights; see hub_server."""
    import hub_server
    from tiny_weights import write_weights

    folder = shutil.copytree(checkpoint_folder, tmp_path_factory.mktemp("hub") / "whole")
    write_weights(folder, layers=1, seed=0)
    with hub_server.running(folder) as found:
        yield found


@pytest.fixture
def fake(monkeypatch, checkpoint_folder):
    """The scripted extension in the place of the real one; tests change its script."""
    import dream_r
    import fake_core
    from dream_r.checkpoint import resolve
    from dream_r.tokens import Tokens

    class Scripted(fake_core.Engine):
        pass

    Scripted.submitted = []
    Scripted.encode = staticmethod(Tokens(resolve(checkpoint_folder)).encode)
    monkeypatch.setattr(fake_core, "Engine", Scripted)
    monkeypatch.setattr(dream_r, "_core", fake_core, raising=False)
    monkeypatch.setitem(sys.modules, "dream_r._core", fake_core)
    return Scripted


@pytest.fixture
def engine(fake, checkpoint_folder):
    import dream_r

    with dream_r.Engine(checkpoint_folder, checkpoint_folder) as made:
        yield made


@pytest.fixture
def board(tmp_path):
    path = tmp_path / "board.png"
    Image.radial_gradient("L").convert("RGB").resize((96, 64)).save(path)
    return path
