"""Dependencies in csrc run python -> runtime -> model -> {kv, quant, ops} -> core, never back."""

import re
from pathlib import Path

CSRC = Path(__file__).resolve().parents[2] / "csrc"
BELOW = {
    "core": set(),
    "ops": {"core"},
    "quant": {"core", "ops"},
    "kv": {"core"},
    "model": {"core", "ops", "quant", "kv"},
    "runtime": {"core", "ops", "quant", "kv", "model"},
    "python": {"core", "ops", "quant", "kv", "model", "runtime"},
}


def includes() -> list[tuple[str, str, str]]:
    """(file, its folder, folder it includes from) of every project include in csrc."""
    found = []
    for file in sorted(CSRC.rglob("*")):
        if file.suffix not in {".h", ".cc", ".inl", ".cu"}:
            continue
        own = file.relative_to(CSRC).parts[0]
        for name in re.findall(r'^#include "([^"]+)"', file.read_text(), re.MULTILINE):
            if "/" in name:
                found.append((str(file.relative_to(CSRC)), own, name.split("/")[0]))
    return found


def test_includes_never_point_back() -> None:
    found = includes()
    assert len(found) > 100
    back = [(file, to) for file, own, to in found if to != own and to not in BELOW[own]]
    assert not back


def test_no_file_is_too_long() -> None:
    root = CSRC.parent
    files = [
        f
        for part in ("csrc", "python", "train", "tests", "bench")
        for f in (root / part).rglob("*")
        if f.suffix in {".h", ".cc", ".inl", ".cu", ".py"} and f.name != "doctest.h"
    ]
    assert len(files) > 50
    assert [str(f) for f in files if len(f.read_text().splitlines()) > 500] == []
