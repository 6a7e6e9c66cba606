"""A stage's scratch folder: held by one process alone, each file in it whole or known as damaged.

What a killed run leaves here the next run of the same stage key goes on from. A kept file's name
ends in the checksum of its content, `epoch-000003.1f0c6b2a9d4e7788.ckpt`, so that file and checksum
come and go in one rename.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from tasks.system.locks import is_at, take

_LOCK = "lock"


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
        # Unless `discard` has removed it, and another process made it again.
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


def _places(folder: Path) -> Iterator[Path]:
    yield folder
    for number in count(2):
        yield folder.with_name(f"{folder.name}.{number}")


def _remove_if_unused(folder: Path) -> None:
    with contextlib.suppress(OSError):
        if os.listdir(folder) == [_LOCK]:
            (folder / _LOCK).unlink()
            folder.rmdir()
