"""Where a checkpoint is, and its small JSON files. Weights are read and checked in C++."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from dream_r import hub

POCKET = {"pocket": "target", "pocket-draft": "draft"}


def resolve(name: str | os.PathLike[str]) -> Checkpoint:
    """The checkpoint of a built-in name, a folder or a hub id. ValueError when there is none."""
    if isinstance(name, str) and name in POCKET:
        from dream_r import pocket

        folder = pocket.path(POCKET[name])
        if not (folder / "config.json").is_file():
            raise ValueError(f"model {name}: this installation has no weights for it in {folder}")
        return Checkpoint(str(name), folder)
    folder = Path(name).expanduser()
    if not folder.exists() and isinstance(name, str) and (wanted := hub.HubId.of(name)):
        folder = hub.fetch(wanted)
    if not folder.exists():
        known = ", ".join(POCKET)
        raise ValueError(
            f"model {name}: there is no such folder; give a folder, an org/name of the hub or one "
            f"of {known}"
        )
    if not folder.is_dir():
        raise ValueError(f"model {name}: not a folder; give the folder that holds config.json")
    hub.check_files(name, (path.name for path in folder.iterdir()))
    return Checkpoint(str(name), folder)


@dataclass(frozen=True)
class Checkpoint:
    """A folder with config.json, weights, tokenizer, chat template and image-processor settings."""

    name: str
    folder: Path

    def json(self, file: str) -> dict[str, Any] | None:
        """The object in `file`, None when there is no such file."""
        path = self.folder / file
        if not path.exists():
            return None
        try:
            found = json.loads(path.read_bytes())
        except (OSError, ValueError) as error:
            raise ValueError(f"model {self.name}: {file} cannot be read: {error}") from None
        if not isinstance(found, dict):
            raise ValueError(f"model {self.name}: {file} holds no JSON object")
        return found

    def text(self, file: str) -> str | None:
        """The text of `file`, None when there is no such file."""
        path = self.folder / file
        try:
            return path.read_text(encoding="utf-8") if path.exists() else None
        except (OSError, ValueError) as error:
            raise ValueError(f"model {self.name}: {file} cannot be read: {error}") from None

    @cached_property
    def config(self) -> dict[str, Any]:
        return self.json("config.json") or {}

    @cached_property
    def generation(self) -> dict[str, Any]:
        return self.json("generation_config.json") or {}

    @cached_property
    def tokenizer_config(self) -> dict[str, Any]:
        return self.json("tokenizer_config.json") or {}

    @property
    def has_vision(self) -> bool:
        return "vision_config" in self.config
