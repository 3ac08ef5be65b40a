"""The tiny checkpoints that every test of this folder runs on."""

import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("dream_r._core")

sys.path.insert(0, str(Path(__file__).parent))
from checkpoints import VARIANTS, make_qwen, make_r  # noqa: E402
from families import Tiny  # noqa: E402


@pytest.fixture(scope="session", params=[*VARIANTS, "r"])
def tiny(request, tmp_path_factory) -> Tiny:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp(request.param)
    return make_r(folder) if request.param == "r" else make_qwen(request.param, folder)
