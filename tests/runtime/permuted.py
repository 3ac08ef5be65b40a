"""A copy of a checkpoint whose token ids are others: the same model behind another tokenizer."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

SPECIAL = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")


def permuted(source: Path, folder: Path, seed: int = 1) -> Path:
    """Copy `source`, its ids shuffled in the tokenizer, the settings and the embedding's rows."""
    shutil.copytree(source, folder)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    vocabulary, added = tokenizer["model"]["vocab"], tokenizer["added_tokens"]
    words = list(vocabulary.values())
    Random(seed).shuffle(words)
    moved = dict(zip(vocabulary.values(), words, strict=True))
    # Added tokens are numbered in the order of their list, after the words.
    moved |= dict(zip([a["id"] for a in reversed(added)], [a["id"] for a in added], strict=True))
    tokenizer["model"]["vocab"] = {word: moved[i] for word, i in vocabulary.items()}
    tokenizer["added_tokens"] = [{**a, "id": moved[a["id"]]} for a in reversed(added)]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    for file in ("config.json", "generation_config.json"):
        content = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps(_settings(content, moved)))
    _move_rows(folder / "model.safetensors", moved)
    return folder


def _settings(content: dict[str, Any], moved: dict[int, int]) -> dict[str, Any]:
    return {
        key: _settings(value, moved)
        if isinstance(value, dict)
        else moved[value]
        if isinstance(value, int) and (key in SPECIAL or key.endswith("os_token_id"))
        else value
        for key, value in content.items()
    }


def _move_rows(path: Path, moved: dict[int, int]) -> None:
    data = bytearray(path.read_bytes())
    (size,) = struct.unpack_from("<Q", data)
    for name, entry in json.loads(data[8 : 8 + size]).items():
        if not name.endswith(("embed_tokens.weight", "lm_head.weight")):
            continue
        begin, end = (8 + size + at for at in entry["data_offsets"])
        rows = np.frombuffer(data[begin:end], np.uint8).reshape(entry["shape"][0], -1)
        new = rows.copy()
        new[list(moved.values())] = rows[list(moved)]
        data[begin:end] = new.tobytes()
    path.write_bytes(data)
