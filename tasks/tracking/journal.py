"""The journal: what a stage did, one JSON object a line, kept whatever happens to MLflow.

A stage appends, a publisher tails. The file only grows; every event that must survive is on the
disk before the call returns. Events (``time`` is Unix milliseconds):

    {"event": "start",    "time": …, "stage": …, "key": …, "params": {…}}
    {"event": "metrics",  "time": …, "step": 3, "values": {"loss": 1.25}}
    {"event": "progress", "time": …, "what": "epoch", "done": 3, "total": 20}
    {"event": "note",     "time": …, "message": "…"}
    {"event": "end",      "time": …, "status": "finished" | "failed" | "killed", "message": …}
"""

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

JOURNALS = Path(".instar") / "journal"


def journal_path(root: str | Path, stage: str, key: str) -> Path:
    """Where the stage with this stage key keeps its journal, under the checkout ``root``."""
    return Path(root) / JOURNALS / f"{stage}-{key}.jsonl"


class Journal:
    """The writing end. A second writer on the same file appends; nothing is ever rewritten."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # O_APPEND and one write call per event: lines of two writers may alternate, never mix.
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        self._end_torn_line()

    def start(self, stage: str, key: str, params: Mapping[str, Any]) -> None:
        """Opens one run of the stage; a rerun or a resumed run of the same key opens another."""
        self._append({"event": "start", "stage": stage, "key": key, "params": dict(params)})

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Records scalars at a step. A (name, step) that was there before is the same value."""
        numbers = {name: float(value) for name, value in values.items()}
        self._append({"event": "metrics", "step": int(step), "values": numbers})

    def progress(self, what: str, done: int, total: int | None = None) -> None:
        """Tells a watcher how far the stage is (``total`` None: unknown)."""
        # Not fsync'd: called often, and nobody misses the last one after a power cut.
        self._append({"event": "progress", "what": what, "done": done, "total": total}, sync=False)

    def note(self, message: str) -> None:
        """Records what whoever looks into a run wants to know: a resume, a damaged file."""
        self._append({"event": "note", "message": message})

    def end(self, status: str, message: str | None = None) -> None:
        """Closes the run opened by `start`: 'finished', 'failed' or 'killed', and why."""
        self._append({"event": "end", "status": status, "message": message})

    def close(self) -> None:
        """Lets go of the file; safe to call twice."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> "Journal":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _append(self, event: dict[str, Any], sync: bool = True) -> None:
        event = {"event": event.pop("event"), "time": time.time_ns() // 1_000_000, **event}
        os.write(self._file, (json.dumps(event) + "\n").encode())
        if sync:
            os.fsync(self._file)

    def _end_torn_line(self) -> None:
        """A killed writer may have left half a line: end it, so that ours starts on its own."""
        size = os.fstat(self._file).st_size
        if size and os.pread(self._file, 1, size - 1) != b"\n":
            os.write(self._file, b"\n")


def read_journal(
    path: str | Path, offset: int = 0, until: int | None = None
) -> tuple[list[dict[str, Any]], int]:
    """Returns the events from byte ``offset`` on (to ``until``), and the offset to go on from.

    A last line without its newline is still being written and is left for the next call. A whole
    line that is not JSON is what a killed writer left; it is skipped. A missing file is empty.
    """
    try:
        with open(path, "rb") as file:
            file.seek(offset)
            text = file.read() if until is None else file.read(max(0, until - offset))
    except FileNotFoundError:
        return [], offset
    whole = text[: text.rfind(b"\n") + 1]
    events = []
    for line in whole.splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict) and "event" in event:
            events.append(event)
    return events, offset + len(whole)


def successor_start(path: str | Path, offset: int) -> int | None:
    """Where the second computation from byte ``offset`` on starts, if there is one.

    The first is that of a stage announced at ``offset``, which may never have told its end.
    """
    starts, position = 0, offset
    try:
        with open(path, "rb") as file:
            file.seek(offset)
            for line in file:
                starts += line.startswith(b'{"event": "start"')
                if starts == 2:
                    return position
                position += len(line)
    except FileNotFoundError:
        pass
    return None
