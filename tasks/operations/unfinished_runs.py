"""What runs left behind: going on, waiting for a server, half done, or of no use any more."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tasks.errors import TaskError
from tasks.execution.workspace import sign_of_life
from tasks.system.locks import is_free
from tasks.tracking.run_records import Shelf, has_ended, known_runs

STALE_DAYS = 14


@dataclass(frozen=True)
class Leftover:
    """One thing that a person may want to know of.

    Attributes:
        kind: 'running'; 'queued' (waits for a server), 'half-done' (broke off), 'stale' (useless).
        what: It, in words.
        remedy: What brings it on; None if that happens by itself.
    """

    kind: Literal["running", "queued", "half-done", "stale"]
    what: str
    remedy: str | None = None


def leftovers(root: str | Path) -> list[Leftover]:
    """All that is found in the checkout, runs first."""
    root = Path(root)
    return [*_runs(root), *_lock(root), *_worktrees(root), *_checkpoints(root)]


def _runs(root: Path) -> list[Leftover]:
    found = []
    for run in known_runs(root):
        try:
            record = Shelf(root, run).load()
        except TaskError as problem:
            found.append(Leftover("half-done", str(problem)))
            continue
        if record is None:
            continue
        if not has_ended(root, run):
            found.append(Leftover("running", f"run {run}"))
        elif record.status is None:
            found.append(
                Leftover("half-done", f"run {run} was killed", "`instar run` goes on from there")
            )
        elif not record.delivered:
            found.append(Leftover("queued", f"run {run} is not yet in MLflow", "`instar sync`"))
        elif record.owes:
            owed = {"push": "pushed", "register": "registered"}[record.owes[0]]
            found.append(Leftover("queued", f"run {run} waits to be {owed}", "`instar sync`"))
    return found


def _lock(root: Path) -> list[Leftover]:
    path = root / ".instar" / "lock"
    try:
        holder = json.loads(path.read_text(encoding="utf-8"))
        if not is_free(path):
            return [Leftover("running", f"{holder['what']} with pid {holder['pid']}")]
        what = f"the lock of {holder['what']} with pid {holder['pid']}, which was killed"
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return [Leftover("stale", what, "nothing to do: the next run takes it")]


def _worktrees(root: Path) -> list[Leftover]:
    places = sorted((root / ".instar" / "work").glob("*"))
    return [
        Leftover("stale", f"worktree {place} of a killed run", "the next scheduled run removes it")
        for place in places
        if place.is_dir() and is_free(sign_of_life(place))
    ]


def _checkpoints(root: Path) -> list[Leftover]:
    found = []
    for folder in sorted((root / ".instar" / "checkpoints").glob("*")):
        files = [file for file in folder.rglob("*") if file.is_file()]
        if not files:
            continue
        stats = [file.stat() for file in files]
        days = (time.time() - max(stat.st_mtime for stat in stats)) / 86400
        if days > STALE_DAYS:
            size = sum(stat.st_size for stat in stats) / 1e6
            what = f"checkpoint {folder} ({size:.0f} MB, {days:.0f} days old)"
            found.append(Leftover("stale", what, f"`rm -r '{folder}'`, unless you go on with it"))
    return found
