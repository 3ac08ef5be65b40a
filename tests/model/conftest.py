"""The tiny checkpoints that every test of this folder runs on."""

import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("dream_r._core")

sys.path.insert(0, str(Path(__file__).parent))
from checkpoints import FAMILIES, make  # noqa: E402
from families import Tiny  # noqa: E402


@pytest.fixture(scope="session", params=FAMILIES)
def tiny(request, tmp_path_factory) -> Tiny:
    torch.set_num_threads(1)
    return make(request.param, tmp_path_factory.mktemp(request.param))
