"""DVC's cache: where the bytes of an output lie, by the md5 that dvc.lock has of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from tasks.errors import TaskError
from tasks.versioning.dvc_remote import dvc_settings


def cache_folder(root: str | Path) -> Path:
    """The cache of a checkout, shared or its own.

    Raises:
        TaskError: `root` is not a DVC project.
    """
    return Path(dvc_settings(root).get("cache.dir") or Path(root) / ".dvc" / "cache")


def files_of(cache: Path, path: str, md5: str) -> Iterator[tuple[str, Path]]:
    """Each file of an output and where the cache has it, if it does.

    Args:
        cache: See `cache_folder`.
        path: The output, a file or a folder.
        md5: Its md5 in dvc.lock; of a folder it ends in `.dir` and names the list of its files.

    Raises:
        TaskError: The cache lacks the list of a folder.
    """
    place = cache / "files" / "md5" / md5[:2] / md5[2:]
    if not md5.endswith(".dir"):
        yield path, place
        return
    try:
        listed = json.loads(place.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise TaskError(
            f"DVC's cache has no longer {path}: `dvc fetch --all-branches`, then try again."
        ) from None
    for entry in listed:
        md5 = entry["md5"]
        yield f"{path}/{entry['relpath']}", cache / "files" / "md5" / md5[:2] / md5[2:]
