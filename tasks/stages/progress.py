"""Live progress of a stage: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

# Seconds between two lines where there is no terminal: enough to see life in a log file.
LINE_EVERY = 20.0


class StageProgress:
    """Shows what the stage does, how far it is and how long it still takes.

    On a terminal (stderr) one bar is kept up to date; elsewhere a line is printed when the work
    named `what` changes and every 20 seconds.
    """

    def __init__(self, stage: str):
        self.stage = stage
        self._what = ""
        self._last_line = 0.0
        self._task: TaskID | None = None
        console = Console(stderr=True)
        self._bar = (
            Progress(
                TextColumn("[bold]{task.fields[stage]:<9}[/] {task.description}"),
                BarColumn(bar_width=24),
                TextColumn("{task.fields[shown]}"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(compact=True),
                console=console,
                transient=True,
                refresh_per_second=4,
            )
            if console.is_terminal
            else None
        )

    def __enter__(self) -> StageProgress:
        if self._bar is not None:
            self._bar.start()
            self._task = self._bar.add_task("starting", total=None, stage=self.stage, shown="")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, what: str, done: int, total: int | None, shown: str = "") -> None:
        """Reports that `done` of `total` (None: unknown) is reached in the work named `what`."""
        if self._bar is not None:
            assert self._task is not None
            if total is None and not shown:
                shown = f"{done:,}"
            self._bar.update(self._task, description=what, completed=done, total=total, shown=shown)
            return
        now = time.monotonic()
        if what != self._what or now - self._last_line >= LINE_EVERY:
            self._what, self._last_line = what, now
            of = f"{done:,}/{total:,}" if total is not None else f"{done:,}"
            print(f"{self.stage}: {what} {of} {shown}".rstrip(), file=sys.stderr, flush=True)
