"""DVC's note of who reads and writes what (`.dvc/tmp/rwlock`): who is in it, and mending it.

DVC strikes out dead processes itself, with two exceptions. A process number that somebody else has
got since counts as alive; and a note that is cut short, as its writer was killed or the disk was
full, stops every later command.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil


def dvc_holders(root: Path | str) -> list[str]:
    """The DVC commands whose stages run in this checkout now, each with its process id."""
    note = _read(_note(root)) or {}
    return [
        f"a DVC command with pid {pid}, started {_started(pid)}"
        for pid in sorted({entry["pid"] for entry in _entries(note) if _alive(entry)})
    ]


def forget_the_dead(root: Path | str) -> None:
    """Strike out of the note what is no DVC command any more; remove a note cut short."""
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
        elif not all(map(_alive, _entries(note))):
            scratch = path.with_name("rwlock.new")
            scratch.write_text(json.dumps(_living(note)), encoding="utf-8")
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


def _living(note: dict[str, Any]) -> dict[str, Any]:
    writers = {path: entry for path, entry in note.get("write", {}).items() if _alive(entry)}
    readers = {path: list(filter(_alive, all_)) for path, all_ in note.get("read", {}).items()}
    return {"write": writers, "read": {path: kept for path, kept in readers.items() if kept}}


def _alive(entry: dict[str, Any]) -> bool:
    """Whether the process is there, and a DVC: numbers are used again."""
    try:
        words = Path(f"/proc/{entry['pid']}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return any(word == b"dvc" or word.endswith(b"/dvc") or b"dvc.cli" in word for word in words)


def _started(pid: int) -> str:
    try:
        began = psutil.Process(pid).create_time()
    except psutil.Error:
        return "a moment ago"
    return datetime.fromtimestamp(began).astimezone().isoformat(timespec="seconds")
