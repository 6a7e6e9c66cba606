"""The error a user of the tasks room may see, and the sentence for what machines run out of."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from data.errors import DataError
from models.errors import ModelError

# What libraries that are not Python (torch, safetensors, sqlite) say in errors of their own.
_SAID = {
    errno.ENOSPC: ("No space left on device", "Disk quota exceeded", "database or disk is full"),
    errno.EROFS: ("Read-only file system", "attempt to write a readonly database"),
    errno.EACCES: ("Permission denied",),
    errno.ENOMEM: (
        "DefaultCPUAllocator: can't allocate memory",
        "CUDA out of memory",
        "Cannot allocate memory",
        "is killed by signal: Killed",  # a worker of a DataLoader
        "insufficient shared memory",
    ),
}
OUT_OF_MEMORY = (
    "lower batch_size (or finetune.workers), or close other programs, and run again; "
    "what was finished before is kept."
)
# Below this a disk counts as full: the file that did not fit was larger.
_FULL_BYTES = 1 << 20


class TaskError(Exception):
    """A problem the user can solve: the message says what is wrong and what to do."""


class ServerAwayError(TaskError):
    """A server did not answer as it should: later it may."""


def explain(error: BaseException, places: Sequence[Path] = ()) -> str | None:
    """One sentence for a problem the user can solve; None for a bug.

    Args:
        error: What was raised.
        places: Where was written to, for an error that does not name the path.
    """
    if isinstance(error, DataError | ModelError | TaskError):
        return str(error)
    number = _number(error)
    if number == errno.ENOMEM:
        return f"out of memory: {OUT_OF_MEMORY}"
    # Of a file that was opened by its descriptor it is a number.
    name = getattr(error, "filename", None)
    named = [Path(os.fsdecode(name))] if isinstance(name, str | bytes) and name else []
    if number in (errno.ENOSPC, errno.EDQUOT):
        return no_space(named or places)
    where = _listed(named or places)
    if number == errno.EROFS:
        return f"the file system is read-only{where}: mount it for writing and run again."
    if number in (errno.EACCES, errno.EPERM):
        return f"permission denied{where}: fix its owner or mode and run again."
    return None


def no_space(places: Sequence[Path]) -> str:
    """The sentence for a full disk, which is that of one of the places."""
    where = _listed([place for place in places if _full(place)] or places)
    return (
        f"no space left on the disk{where}: free some and run again; "
        "what was finished before is kept."
    )


def _number(error: BaseException) -> int | None:
    """The errno that the error has or names."""
    if isinstance(error, MemoryError):
        return errno.ENOMEM
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    said = str(error)
    for number, signs in _SAID.items():
        if any(sign in said for sign in signs):
            return number
    # torch.save on a full disk speaks of positions in its own file alone.
    return errno.ENOSPC if "inline_container" in said and "unexpected pos" in said else None


def _full(place: Path) -> bool:
    try:
        return shutil.disk_usage(place).free < _FULL_BYTES
    except OSError:
        return False


def _listed(paths: Sequence[Path]) -> str:
    return f" at {' or '.join(map(str, paths))}" if paths else ""
