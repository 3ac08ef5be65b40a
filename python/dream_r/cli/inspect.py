"""dream-r inspect: what a checkpoint is, whether it runs here, and whether a pair fits."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from dream_r import hub
from dream_r.checkpoint import resolve


def run(arguments: argparse.Namespace) -> int:
    names = [arguments.model] + ([arguments.draft] if arguments.draft else [])
    found = _found(names, {name: seen for name in names if (seen := _not_here(name))})
    if arguments.json:
        print(json.dumps(found, indent=2, ensure_ascii=False))
    else:
        _print(found)
    return 0


def _not_here(name: str) -> hub.Listing | None:
    """What the hub lists of a model that is neither a folder nor in the cache."""
    wanted = hub.HubId.of(name)
    if wanted is None or Path(name).expanduser().exists() or hub.cached(wanted):
        return None
    return hub.listing(wanted)


def _found(names: list[str], absent: dict[str, hub.Listing]) -> dict[str, Any]:
    from dream_r import inspection

    here = {name: resolve(name) for name in names if name not in absent}
    found: dict[str, Any] = {
        role: _download(name, absent[name])
        if name in absent
        else inspection.inspect(here[name]).to_dict()
        for role, name in zip(("model", "draft"), names, strict=False)
    }
    if len(here) == len(names) == 2:
        found["pair"] = vars(inspection.pair(*here.values()))
    return found


def _download(name: str, listing: hub.Listing) -> dict[str, Any]:
    weights = sum(size for file, size in listing.files.items() if file.endswith(".safetensors"))
    return {
        "name": name,
        "in_cache": False,
        "files": len(listing.missing),
        "download_bytes": sum(listing.missing.values()),
        "weight_bytes": weights,
    }


def _rows(role: str, part: dict[str, Any]) -> list[tuple[str, str]]:
    """What a person wants to know, in order: name and value."""
    if role == "pair":
        return [("tokens", part["note"]), ("fits", part["problem"] or "yes")]
    if "download_bytes" in part:
        size, weights = _size(part["download_bytes"]), _size(part["weight_bytes"])
        return [
            ("in the cache", "no"),
            ("to download", f"{part['files']} files, {size} (weights: {weights})"),
        ]
    rows = [("folder", part["folder"]), ("architecture", part["architecture"])]
    if (count := part["parameters"]) is not None:
        text = [f"{_short(count['text'])} text"]
        if count["experts"]:
            text.append(f"of them {_short(count['experts'])} in experts")
            text.append(f"{_short(count['active'])} active for a token")
        text += [f"{_short(count['vision'])} vision"] if count["vision"] else []
        rows.append(("parameters", ", ".join(text)))
    rows += [
        ("weights", ", ".join(f"{name} {_size(n)}" for name, n in part["weights"].items())),
        ("stored", ", ".join(f"{dtype} {_size(n)}" for dtype, n in part["stored"].items())),
        ("quantisation", part["quantisation"]),
        ("KV cache", (n := part["kv_bytes_per_token"]) and f"{n / 1024:g} KiB a token in bf16"),
        ("context", (n := part["context"]) and f"{n:,} tokens"),
        ("vocabulary", (n := part["vocabulary"]) and f"{n:,} rows, {part['tokens'] or 0:,} tokens"),
        ("thinking", part["thinking"]),
        ("pictures", "yes" if part["pictures"] else "no"),
        ("runs", part["problem"] or "yes"),
    ]
    return [(name, value) for name, value in rows if value]


def _short(count: int) -> str:
    """A count of parameters: 2.13B, 4.8M."""
    return f"{count / 1e9:.2f}B" if count >= 1e9 else f"{count / 1e6:.1f}M"


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def _print(found: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    for role, part in found.items():
        console.print(Text(f"{role} {part.get('name', '')}".strip(), "bold"))
        table = Table.grid(padding=(0, 2))
        table.add_column(style="dim", no_wrap=True)
        table.add_column(overflow="fold")
        for name, value in _rows(role, part):
            style = "red" if name in ("runs", "fits") and value != "yes" else ""
            table.add_row(Text(f"  {name}"), Text(value, style))
        console.print(table)
