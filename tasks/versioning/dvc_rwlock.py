"""DVC's note of who reads and writes what (`.dvc/tmp/rwlock`): who is in it, and repairing it.

DVC strikes out dead processes itself, with two exceptions. A process number that somebody else has
got since counts as alive; and a note that is cut short, as its writer was killed or the disk was
full, stops every later command.
"""

from __future__ import annotations

import fcntl
import json
import re
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil

# Seconds: a process' start is known no better.
_CLOCK_STEP = 1.0


def dvc_holders(root: Path | str) -> list[str]:
    """The DVC commands whose stages run in this checkout now, each with its process id."""
    path = _note(root)
    note = _read(path) or {}
    found = {entry["pid"] for entry in _entries(note) if _alive(entry, path)}
    return [f"a DVC command with pid {pid}, started {_started(pid)}" for pid in sorted(found)]


def forget_the_dead(root: Path | str) -> None:
    """Strike out of the note what is not a DVC command any more; remove a note cut short."""
    path = _note(root)
    if not path.exists():
        return
    with path.with_name("rwlock.lock").open("a") as guard:  # the one that DVC itself takes
        try:
            fcntl.flock(guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return  # somebody writes the note this moment, so it is whole
        note = _read(path)
        if note is None:
            path.unlink(missing_ok=True)
        elif not all(_alive(entry, path) for entry in _entries(note)):
            scratch = path.with_name("rwlock.new")
            scratch.write_text(json.dumps(_living(note, path)), encoding="utf-8")
            scratch.replace(path)


def _note(root: Path | str) -> Path:
    return Path(root) / ".dvc" / "tmp" / "rwlock"


def _read(path: Path) -> dict[str, Any] | None:
    """What the note says; None if it is not there or cut short."""
    try:
        note = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return note if isinstance(note, dict) else None


def _entries(note: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield from note.get("write", {}).values()
    for readers in note.get("read", {}).values():
        yield from readers


def _living(note: dict[str, Any], path: Path) -> dict[str, Any]:
    def living(entries: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
        return [entry for entry in entries if _alive(entry, path)]

    writers = {what: entry for what, entry in note.get("write", {}).items() if living([entry])}
    readers = {what: kept for what, all_ in note.get("read", {}).items() if (kept := living(all_))}
    return {"write": writers, "read": readers}


def _alive(entry: dict[str, Any], note: Path) -> bool:
    """Whether the process is there and is that one: numbers are used again.

    Who is noted began before the note was written. A `dvc` counts in any case.
    """
    try:
        process = psutil.Process(entry["pid"])
        known = any(re.search(r"(^|/)dvc$|dvc\.cli", word) for word in process.cmdline())
        return known or process.create_time() <= note.stat().st_mtime + _CLOCK_STEP
    except (psutil.Error, OSError):
        return False


def _started(pid: int) -> str:
    try:
        began = psutil.Process(pid).create_time()
    except psutil.Error:
        return "a moment ago"
    return datetime.fromtimestamp(began).astimezone().isoformat(timespec="seconds")
