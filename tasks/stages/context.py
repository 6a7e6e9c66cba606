"""The frame of `python -m tasks.<stage>`: settings, journal, progress and errors, for all stages.

A stage computes and writes files. It needs neither Prefect nor MLflow, and its cached outputs hold
no clock, host or absolute path: those belong into the journal.
"""

from __future__ import annotations

import contextlib
import csv
import json
import math
import resource
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tasks.errors import TaskError, explain
from tasks.layout import ARTIFACTS, STATE, complaint_of
from tasks.settings.loading import load_params
from tasks.settings.schema import Params
from tasks.stages.progress import StageProgress
from tasks.system.locks import HeldError, held
from tasks.system.parent_watchdog import follow_dvc
from tasks.system.scratch import claimed, discard
from tasks.system.terminal import open_terminal
from tasks.tracking.journal import Journal, journal_path
from tasks.versioning.stage_key import edited, key_of, stage_inputs

# A progress event in the journal at most this often: it is for watchers, not for the record.
PROGRESS_EVERY = 2.0
INTERRUPTED = 130


class _BusyError(TaskError):
    """Another process writes the stage's outputs; a complaint file is then that one's to leave."""


class Stage:
    """What a running stage has at hand.

    Attributes:
        params: The validated settings.
        out: The folder to write to, empty at the start.
        journal: Where metrics go that MLflow will show.
        scratch: A folder for checkpoints that no other process uses, named by the stage key: a
            changed setting or input never meets another's state. Removed when the stage succeeds.
    """

    def __init__(
        self,
        name: str,
        key: str,
        params: Params,
        journal: Journal,
        bar: StageProgress,
        scratch: Path,
    ):
        self.name = name
        self.key = key
        self.params = params
        self.journal = journal
        self.out = ARTIFACTS / name
        self.scratch = scratch
        self._bar = bar
        self._told = 0.0

    def progress(self, what: str, done: int, total: int | None = None, shown: str = "") -> None:
        """Shows how far the stage is; cheap enough to be called at every step."""
        self._bar.update(what, done, total, shown)
        now = time.monotonic()
        if now - self._told >= PROGRESS_EVERY:
            self._told = now
            self.journal.progress(what, done, total)

    def note(self, message: str) -> None:
        """Reports a line that belongs on the screen and into the journal."""
        print(f"{self.name}: {message}", file=sys.stderr, flush=True)
        self.journal.note(message)

    def write_json(self, name: str, content: Any) -> None:
        """Writes one of the stage's outputs, the same bytes for the same content."""
        (self.out / name).write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")

    def write_csv(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Writes one of the stage's outputs as a table; what is not a number is left empty.

        Not by pandas, whose import would cost more than the table.
        """
        columns = dict.fromkeys(column for row in rows for column in row)
        with (self.out / name).open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows({key: _cell(value) for key, value in row.items()} for row in rows)


def _cell(value: Any) -> Any:
    if not isinstance(value, float):
        return value
    return round(value, 6) if math.isfinite(value) else None


@contextmanager
def stage(name: str) -> Iterator[Stage]:
    """Runs the body as the stage `name`.

    A problem the user can solve ends in one line on stderr, in `.instar/errors/<name>.txt` (where
    the flow finds it) and in the journal, with exit status 1; a bug keeps its stack trace. SIGTERM
    counts as Ctrl-C, and so does the end of the `dvc` that runs the stage: what is reached stays.
    """
    open_terminal()
    signal.signal(signal.SIGTERM, _interrupt)
    follow_dvc()
    with ExitStack() as locks:
        journal: Journal | None = None
        started = time.monotonic()
        try:
            # Before anything is written, the complaint of a stage that goes on included.
            locks.enter_context(_writing_alone(name))
            complaint_of(name).unlink(missing_ok=True)
            params = load_params()
            inputs = stage_inputs(name, Path.cwd())
            key = key_of(inputs)
            scratch = locks.enter_context(claimed(STATE / "checkpoints" / f"{name}-{key}"))
            journal = Journal(journal_path(Path.cwd(), name, key))
            journal.start(name, key, _group(params, name))
            with StageProgress(name) as bar:
                run = Stage(name, key, params, journal, bar, scratch)
                shutil.rmtree(run.out, ignore_errors=True)
                run.out.mkdir(parents=True)
                yield run
            _refuse_edits(name, inputs)
            journal.metrics(
                {"seconds": time.monotonic() - started, "peak_memory_mb": peak_memory_mb()}, step=0
            )
            journal.end("finished")
            discard(scratch)
        except KeyboardInterrupt:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a leash asks twice
            _close(journal, "killed", "interrupted")
            sys.exit(INTERRUPTED)
        except Exception as error:
            message = explain(error, [(ARTIFACTS / name).resolve(), STATE.resolve()])
            _close(journal, "failed", message or repr(error))
            if message is None:
                raise
            _complain(name, message, for_the_flow=not isinstance(error, _BusyError))
            sys.exit(1)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


@contextmanager
def _writing_alone(name: str) -> Iterator[None]:
    """Hold the stage's folder, so that two who type the stage cannot both write there."""
    try:
        with held(STATE / f"{name}.lock", f"stage {name}"):
            yield
    except HeldError as other:
        raise _BusyError(
            f"{ARTIFACTS / name} is busy: {other} writes there. Wait for its end, or end it first."
        ) from None


def _close(journal: Journal | None, status: str, message: str) -> None:
    """End the journal, if it can still be written: on a full disk the first problem is the one."""
    if journal:
        with contextlib.suppress(OSError):
            journal.end(status, message)


def _complain(name: str, message: str, for_the_flow: bool) -> None:
    print(f"error: {message}", file=sys.stderr, flush=True)
    if not for_the_flow:
        return
    with contextlib.suppress(OSError):
        complaint_of(name).parent.mkdir(parents=True, exist_ok=True)
        complaint_of(name).write_text(message + "\n", encoding="utf-8", errors="backslashreplace")


def _refuse_edits(name: str, inputs: Mapping[str, Any]) -> None:
    """Fail, so that DVC records nothing: it would note the edited input as what made the outputs.

    The checkpoint stays, under the key of what the inputs were.
    """
    changed = edited(inputs, stage_inputs(name, Path.cwd()))
    if changed:
        raise TaskError(
            f"{', '.join(changed)} changed while stage {name} ran, so its outputs are not kept: "
            "run again, or undo the edit first to go on from the last checkpoint."
        )


def peak_memory_mb() -> float:
    """Largest resident memory of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _group(params: Params, name: str) -> Mapping[str, Any]:
    """The stage's own settings: the group of its name ('prepare' reads 'data')."""
    whole: dict[str, Any] = params.model_dump(mode="json", by_alias=True)
    group: dict[str, Any] = whole["data" if name == "prepare" else name]
    return group
