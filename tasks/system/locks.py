"""Locks on files: the kernel frees them when the holder dies, however it dies.

Whoever waits for one longer than a moment says so on stderr: for what, for whom, and what to do.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import IO, Any

# Seconds: a wait that is no longer is nobody's concern.
PATIENCE = 1.0

_taken: weakref.WeakSet[IO[str]] = weakref.WeakSet()


class HeldError(Exception):
    """Another process holds the lock; the message says who, and since when."""


@contextmanager
def held(
    path: Path, what: str, wait: bool = False, on_wait: Callable[[str], object] | None = None
) -> Iterator[None]:
    """Hold the lock while the body runs; the file is there only so long.

    Args:
        path: The file.
        what: What this process does, told to those who find the lock taken.
        wait: Wait for the holder instead of refusing.
        on_wait: Called with who the holder is, before a wait; if None, stderr is, after a moment.

    Raises:
        HeldError: Another process holds it and `wait` is false.
    """
    file = take(path)
    if file is None and not wait:
        raise HeldError(_holder(path))
    if file is None:
        if on_wait is not None:
            on_wait(_holder(path))
            file = take(path, wait=True)
        else:
            with saying_so(lambda: _wait_for(path, what)):
                file = take(path, wait=True)
    assert file is not None, "a wait ends with the lock"
    with file:
        started = datetime.now().astimezone().isoformat(timespec="seconds")
        file.truncate(0)
        json.dump({"pid": os.getpid(), "started": started, "what": what}, file)
        file.flush()
        try:
            yield
        finally:
            # Not one that another has made again since this one's was removed.
            if is_at(path, file):
                with contextlib.suppress(OSError):  # a disk that has become read-only
                    path.unlink()


def take(path: Path, wait: bool = False) -> IO[str] | None:
    """Lock a file, made with its folders where it lacks; whoever closes it lets go.

    Returns:
        The open file; None if another process holds it and `wait` is false.
    """
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            file = path.open("a+", encoding="utf-8")
        except FileNotFoundError:
            continue  # a holder that ended has just removed the folder
        try:
            fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return None
        if is_at(path, file):
            _taken.add(file)
            return file
        file.close()  # the holder before removed it at its end: nobody else would see this lock


@contextmanager
def saying_so(what: Callable[[], str]) -> Iterator[None]:
    """Says on stderr, once, what the body waits for, if that takes longer than a moment.

    Args:
        what: The sentence after "waiting for".
    """
    timer = threading.Timer(PATIENCE, lambda: print(f"waiting for {what()}", file=sys.stderr))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def is_free(path: Path) -> bool:
    """Whether nobody holds the lock."""
    try:
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except FileNotFoundError:
        pass
    return True


def is_at(path: Path, file: IO[str]) -> bool:
    """Whether the open file is the one at `path`."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _wait_for(path: Path, what: str) -> str:
    pid = _record(path).get("pid", "PID")
    return (
        f"{_holder(path)}: it holds {path}, which {what} needs. This goes on by itself once that "
        f"has ended; if it hangs, end it (`kill {pid}`), or press Ctrl-C here."
    )


def _holder(path: Path) -> str:
    record = _record(path)
    if not record:
        return "another process"
    return f"{record['what']} with pid {record['pid']}, started {record['started']}"


def _record(path: Path) -> dict[str, Any]:
    """What the holder wrote; empty if it has not yet."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return {key: record[key] for key in ("what", "pid", "started")}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _let_go() -> None:
    for file in list(_taken):
        file.close()


# A forked worker that outlives its parent for a moment must not hold what it inherits.
os.register_at_fork(after_in_child=_let_go)
