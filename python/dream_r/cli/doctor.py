"""dream-r doctor: what this machine and this build can do."""

from __future__ import annotations

import argparse
import json
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from dream_r import machine


def run(arguments: argparse.Namespace) -> int:
    found = examine()
    if arguments.json:
        print(json.dumps(found, indent=2))
        return 0
    width = max(len(name) for part in found.values() for name in part)
    for title, part in found.items():
        print(title)
        for name, value in part.items():
            print(f"  {name:<{width}}  {_plain(value)}")
    return 0


def examine() -> dict[str, dict[str, Any]]:
    """Facts by heading. A part that cannot be found out says why instead of failing."""
    from dream_r import _core

    name, features = machine.cpu()
    free, total = machine.memory_free(), machine.memory_total()
    return {
        "machine": {
            "processor": name,
            "features": list(features),
            "cores": machine.cores(),
            "memory GiB": None if total is None else round(total / 2**30, 1),
            "free GiB": None if free is None else round(free / 2**30, 1),
            "system": platform.platform(),
        },
        "runtime": {
            "kernels": _core.cpu_isa(),
            "kernels that run here": _core.cpu_isas(),
            "dtype auto on the CPU": _core.fastest_dtype("cpu"),
            **_core.build_info(),
        },
        "cuda": _cuda(),
        "versions": {
            "python": platform.python_version(),
            **{
                package: _version(package)
                for package in (
                    "dream-r",
                    "numpy",
                    "pillow",
                    "tokenizers",
                    "transformers",
                    "jinja2",
                    "rich",
                    "torch",
                )
            },
        },
        "models": {model: _model(model) for model in ("pocket", "pocket-draft")},
    }


def _cuda() -> dict[str, Any]:
    from dream_r import _core

    why = _core.cuda_unusable()
    if why:
        return {"devices": f"none: {why}"}
    return {
        f"cuda:{i}": f"{name}, {size / 2**30:.0f} GiB, compute capability {capability}, "
        + _usable(f"cuda:{i}")
        for i, (name, size, capability) in enumerate(_core.cuda_devices())
    }


def _usable(device: str) -> str:
    from dream_r import _core

    try:
        _core.require_device(device)
    except (RuntimeError, ValueError) as error:
        return f"cannot be used: {error}"
    return "can be used"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _model(name: str) -> str:
    from dream_r.checkpoint import resolve

    try:
        folder = resolve(name).folder
    except ValueError as error:
        return str(error)
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    return f"{folder} ({size / 1e6:.1f} MB)"


def _plain(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)
