"""Files that are there whole or not at all, whatever ends the process."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tasks.system.hashing import hash_file

_CHECKSUM_DIGITS = 16


def keep_json(path: Path, content: Any) -> None:
    """Write JSON whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.write_text(json.dumps(content), encoding="utf-8")
    os.replace(fresh, path)


def replace(path: Path, text: str) -> None:
    """Writes a file whole or not at all."""
    descriptor, partial = tempfile.mkstemp(dir=path.parent, prefix=f"{path.name}.")
    with open(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def keep(path: Path, content: bytes | memoryview) -> Path:
    """Write a file that is there whole or not at all, even after a power cut.

    Returns:
        Where it is: `path` with the checksum before its suffix.

    Raises:
        OSError: It could not be written; `filename` says where. Nothing of it is left.
    """
    checksum = hashlib.sha256(content).hexdigest()[:_CHECKSUM_DIGITS]
    final = path.with_name(f"{path.stem}.{checksum}{path.suffix}")
    partial = path.with_name(f".{path.name}.partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, final)
        _sync_folder(path.parent)
    except OSError as error:
        partial.unlink(missing_ok=True)
        # A failed write does not say by itself which file it was.
        raise OSError(error.errno, os.strerror(error.errno or 0), str(final)) from error
    return final


def kept(path: Path, note: Callable[[str], None]) -> Iterator[Path]:
    """The whole files that `keep(path, …)` wrote, the last by name first.

    A damaged one is renamed to `<name>.damaged` on the way.

    Args:
        path: Its name may be a pattern: `epoch-*.ckpt`.
        note: Called with each damaged file.
    """
    found = sorted(path.parent.glob(f"{path.stem}.{'?' * _CHECKSUM_DIGITS}{path.suffix}"))
    for file in reversed(found):
        if hash_file(file)[:_CHECKSUM_DIGITS] == file.name.split(".")[-2]:
            yield file
        else:
            aside = file.with_name(f"{file.name}.damaged")
            os.replace(file, aside)
            note(f"warning: {file} is damaged (cut short or changed), so it is not used: {aside}")


def _sync_folder(folder: Path) -> None:
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        # Some network file systems cannot; the checksum tells what a power cut left.
        with contextlib.suppress(OSError):
            os.fsync(opened)
    finally:
        os.close(opened)
