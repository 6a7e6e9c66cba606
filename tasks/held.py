"""A lock on a file that says who holds it, and that the kernel frees when the holder dies."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path


class HeldError(Exception):
    """Another process holds the lock; the message says who, and since when."""


@contextmanager
def held(path: Path, what: str, wait: bool = False) -> Iterator[None]:
    """Hold the lock while the body runs.

    Args:
        path: The file; it stays, empty.
        what: What this process does, told to those who find the lock taken.
        wait: Wait for the holder instead of refusing.

    Raises:
        HeldError: Another process holds it and `wait` is false.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise HeldError(_holder(path)) from None
        # A forked worker that outlives this process for a moment must not hold what it inherits.
        os.register_at_fork(after_in_child=file.close)
        started = datetime.now().astimezone().isoformat(timespec="seconds")
        file.seek(0)
        file.truncate()
        json.dump({"pid": os.getpid(), "started": started, "what": what}, file)
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


def _holder(path: Path) -> str:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return f"{record['what']} with pid {record['pid']}, started {record['started']}"
    except (OSError, ValueError, KeyError):
        return "another process"
