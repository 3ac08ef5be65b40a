"""Checkpoints on the Hugging Face hub: huggingface_hub downloads them, this says what and why not.

Only JSON, text, chat templates and safetensors of the repository's root are ever fetched: nothing
in them can run. HF_HOME, HF_TOKEN, HF_ENDPOINT and HF_HUB_OFFLINE are huggingface_hub's own.
"""

from __future__ import annotations

import errno
import re
import shutil
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WANTED = ("*.json", "*.txt", "*.jinja", "*.safetensors")
NOT_WANTED = ("*/*",)  # other formats of the same weights live in folders
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")

_ID = re.compile(r"(?P<repo>\w[\w.-]*/\w[\w.-]*)(@(?P<revision>[\w./-]+))?", re.ASCII)


@dataclass(frozen=True)
class HubId:
    """A repository of the hub, and which state of it."""

    repo: str
    revision: str = "main"

    @classmethod
    def of(cls, name: str) -> HubId | None:
        """`org/name` or `org/name@revision`; None for anything else."""
        if (found := _ID.fullmatch(name)) is None:
            return None
        return cls(found["repo"], found["revision"] or "main")

    def __str__(self) -> str:
        return self.repo if self.revision == "main" else f"{self.repo}@{self.revision}"


def check_files(name: object, files: Iterable[str]) -> None:
    """ValueError unless the names of a checkpoint's files hold what can be loaded safely."""
    found = set(files)
    if "config.json" not in found:
        raise ValueError(f"model {name}: there is no config.json")
    pickles = sorted(file for file in found if file.endswith(PICKLES))
    if pickles and not any(file.endswith(".safetensors") for file in found):
        raise ValueError(
            f"model {name}: has only pickled weights ({pickles[0]}), which can run code when they "
            "are read; safetensors only"
        )


def fetch(wanted: HubId) -> Path:
    """The folder of a repository's files, downloaded where the cache lacks them.

    Without a connection the cache alone is used. ValueError of one line when neither works.
    """
    try:
        found = look(wanted)
        check_files(wanted, found.files)
        _check_room(wanted, sum(found.missing.values()))
        return _snapshot(wanted)
    except ValueError:
        raise
    except Exception as error:  # every transport has its own
        if (folder := cached(wanted)) is not None:
            return folder
        raise ValueError(f"model {wanted}: {_reason(wanted, error)}") from None


def cached(wanted: HubId) -> Path | None:
    """The folder of a repository that is complete in the local cache."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return _snapshot(wanted, local_files_only=True)
    except LocalEntryNotFoundError:
        return None


def _snapshot(wanted: HubId, local_files_only: bool = False) -> Path:
    """huggingface_hub's download, or its look into the cache; a progress bar on terminals only."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils import tqdm

    class Quiet(tqdm):  # type: ignore[misc]
        def __init__(self, *arguments: Any, **settings: Any) -> None:
            super().__init__(*arguments, **{**settings, "disable": True})

    return Path(
        snapshot_download(
            wanted.repo,
            revision=wanted.revision,
            allow_patterns=list(WANTED),
            ignore_patterns=list(NOT_WANTED),
            local_files_only=local_files_only,
            tqdm_class=None if sys.stderr.isatty() else Quiet,
        )
    )


@dataclass(frozen=True)
class Listing:
    """Bytes of the files in a repository's root, and of those that a download would fetch."""

    files: dict[str, int]
    missing: dict[str, int]


def look(wanted: HubId) -> Listing:
    """What the hub lists; nothing is downloaded. The hub's own errors when it cannot be asked."""
    from huggingface_hub import HfApi, try_to_load_from_cache

    info = HfApi().model_info(wanted.repo, revision=wanted.revision, files_metadata=True)
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
    files = {name: size for name, size in sizes.items() if "/" not in name}
    kinds = tuple(pattern.removeprefix("*") for pattern in WANTED)

    def is_cached(file: str) -> bool:
        return isinstance(try_to_load_from_cache(wanted.repo, file, revision=info.sha), str)

    return Listing(
        files, {f: n for f, n in files.items() if f.endswith(kinds) and not is_cached(f)}
    )


def listing(wanted: HubId) -> Listing:
    """As look(), but a ValueError of one line when the hub cannot be asked."""
    try:
        return look(wanted)
    except Exception as error:  # every transport has its own
        raise ValueError(f"model {wanted}: {_reason(wanted, error)}") from None


def _check_room(wanted: HubId, needed: int) -> None:
    from huggingface_hub.constants import HF_HUB_CACHE

    cache = Path(HF_HUB_CACHE).expanduser()
    disk = next(folder for folder in (cache, *cache.absolute().parents) if folder.exists())
    free = shutil.disk_usage(disk).free
    if needed > free:
        raise ValueError(
            f"model {wanted}: {needed / 1e9:.1f} GB to download, but {free / 1e9:.1f} GB are free "
            f"in {cache}; make room or point HF_HOME elsewhere"
        )


def _reason(wanted: HubId, error: Exception) -> str:
    """Why the hub did not give the files, and what to do, in one line."""
    from huggingface_hub import errors
    from huggingface_hub.constants import ENDPOINT, HF_HUB_CACHE

    if isinstance(error, errors.OfflineModeIsEnabled):
        return f"it is not in the cache {HF_HUB_CACHE}, and HF_HUB_OFFLINE forbids to download it"
    if isinstance(error, errors.GatedRepoError):
        return f"access is restricted: ask for it at {ENDPOINT}/{wanted.repo} and set HF_TOKEN"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"the repository has no revision {wanted.revision}"
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.RepositoryNotFoundError) or status == 404:
        return f"there is no such folder, nor such a model at {ENDPOINT} (private? set HF_TOKEN)"
    if status in (401, 403):
        return f"{ENDPOINT} denies access ({status}): set HF_TOKEN to a token that may read it"
    if status is not None:
        return f"{ENDPOINT} answered {status}; try again later"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk is full: make room in {HF_HUB_CACHE} or point HF_HOME elsewhere"
    detail = (str(error).splitlines() or [""])[0] or type(error).__name__
    return f"it is not in the cache, and {ENDPOINT} cannot be reached ({detail})"
