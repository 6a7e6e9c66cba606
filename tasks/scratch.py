"""A stage's scratch folder: held by one process alone, each file in it whole or known as damaged.

What a killed run leaves here the next run of the same stage key goes on from. A kept file's name
ends in the checksum of its content, `epoch-000003.1f0c6b2a9d4e7788.ckpt`, so that file and checksum
come and go in one rename.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from tasks.contents import hash_file
from tasks.held import is_at, take

_LOCK = "lock"
_CHECKSUM_DIGITS = 16


@contextmanager
def claimed(folder: Path) -> Iterator[Path]:
    """Hold a scratch folder until the block ends or this process dies, however it dies.

    Isolated runs of one commit share the checkout's folders: where another process holds
    `folder`, the first free one of `<folder>.2`, `<folder>.3`, … is given.
    """
    place, lock = next(
        (place, lock) for place in _places(folder) if (lock := take(place / _LOCK)) is not None
    )
    try:
        yield place
    finally:
        # Unless `discard` has removed it, and another process made it anew.
        if is_at(place / _LOCK, lock):
            _remove_if_unused(place)
        lock.close()


def discard(folder: Path) -> None:
    """Remove the scratch folders of a stage that has succeeded, but for those that others hold.

    Args:
        folder: One that this process holds, as `claimed` gave it.
    """
    shutil.rmtree(folder, ignore_errors=True)
    name = folder.name.partition(".")[0]
    for other in (folder.with_name(name), *folder.parent.glob(f"{name}.*")):
        if not other.is_dir():
            continue
        lock = take(other / _LOCK)
        if lock is not None:
            shutil.rmtree(other, ignore_errors=True)
            lock.close()


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
        note: Told of each damaged file.
    """
    found = sorted(path.parent.glob(f"{path.stem}.{'?' * _CHECKSUM_DIGITS}{path.suffix}"))
    for file in reversed(found):
        if hash_file(file)[:_CHECKSUM_DIGITS] == file.name.split(".")[-2]:
            yield file
        else:
            aside = file.with_name(f"{file.name}.damaged")
            os.replace(file, aside)
            note(f"warning: {file} is damaged (cut short or changed), so it is not used: {aside}")


def _places(folder: Path) -> Iterator[Path]:
    yield folder
    for number in count(2):
        yield folder.with_name(f"{folder.name}.{number}")


def _remove_if_unused(folder: Path) -> None:
    with contextlib.suppress(OSError):
        if os.listdir(folder) == [_LOCK]:
            (folder / _LOCK).unlink()
            folder.rmdir()


def _sync_folder(folder: Path) -> None:
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        # Some network file systems cannot; the checksum tells what a power cut left.
        with contextlib.suppress(OSError):
            os.fsync(opened)
    finally:
        os.close(opened)
