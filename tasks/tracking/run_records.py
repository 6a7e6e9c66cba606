"""What the publisher remembers of a flow run, on the disk: its record and the files set aside."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal

from tasks.errors import TaskError
from tasks.system.locks import take
from tasks.tracking.metrics import flatten
from tasks.versioning.dvc_cache import files_of

Status = Literal["running", "ran", "cached", "failed", "killed"]

_RUNS = Path(".instar") / "runs"
# Seconds in which a run that has ended tidies up.
_LAST_WORDS = 60.0
# Too large, or not for MLflow's eyes (of the test); the rest of a stage's outputs is kept for it.
MANIFEST = Path("store") / "manifest.json"
NOT_PUBLISHED = ("store", "test_labels.parquet", "test_sources.parquet")


@dataclass
class StageRecord:
    """One stage of a flow run, and how much of it MLflow has.

    Attributes:
        key: The stage key.
        status: As told to `Publisher.stage`.
        announced: Size of the journal when the stage was announced: what it holds beyond is new.
        closed: Size of the journal when the stage had ended: what it holds beyond is another run's.
        outs: What dvc.lock said then: its outputs' paths and md5, by which DVC's cache has them.
        offset: Bytes of the journal that have arrived; None before the first.
        run: The MLflow run, once there is one.
        delivered: Everything of this stage has arrived.
    """

    key: str
    status: Status
    announced: int
    closed: int | None = None
    outs: dict[str, str] = field(default_factory=dict)
    offset: int | None = None
    run: str | None = None
    delivered: bool = False


@dataclass
class RunRecord:
    """One flow run; see the module.

    Attributes:
        run_id: Its name.
        began: Unix ms.
        experiment: MLflow's experiment.
        params: Its settings, flat.
        parent: Its MLflow run, once there is one.
        status: MLflow's word for how the flow ended, once it has.
        ended: Unix ms.
        delivered: MLflow has all of it.
        commit: What holds the run, once that is made.
        owes: What is still to be done with the commit, in this order: 'push', 'register'.
        source: What it started from, see `skip_unchanged`; empty before the gate has judged it.
        version: What it registered, as `NAME@VERSION`; empty likewise.
        stages: Its stages, by name.
    """

    run_id: str
    began: int
    experiment: str
    params: dict[str, str]
    parent: str | None = None
    status: str | None = None
    ended: int | None = None
    delivered: bool = False
    commit: str | None = None
    owes: list[str] = field(default_factory=list)
    source: str = ""
    version: str = ""
    stages: dict[str, StageRecord] = field(default_factory=dict)

    def forget_arrivals(self) -> None:
        """Nothing counts as arrived any more: MLflow lost it."""
        self.parent = None
        self.delivered = False
        for stage in self.stages.values():
            stage.offset = stage.run = None
            stage.delivered = False


class Shelf:
    """Where a flow run's record and the files set aside for it lie."""

    def __init__(self, root: Path, run_id: str):
        self.root = root
        self.run_id = run_id
        self.path = root / _RUNS / f"{run_id}.json"
        self.folder = root / _RUNS / run_id
        self.guard = threading.RLock()

    @property
    def home(self) -> Path:
        """The checkout that keeps the records, also of a run in a worktree that goes away."""
        return self.path.parent.resolve().parents[1]

    def lock(self) -> IO[str] | None:
        """Held while this run goes on, by its process; None if another holds it."""
        return take(self.path.with_suffix(".lock"))

    def load(self) -> RunRecord | None:
        """The record as it was last saved; None if there is none.

        Raises:
            TaskError: It cannot be read.
        """
        try:
            raw = json.loads(self.path.read_text(encoding="utf-8"))
            stages = {name: StageRecord(**stage) for name, stage in raw.pop("stages").items()}
            return RunRecord(**raw, stages=stages)
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise TaskError(
                f"{self.path} cannot be read ({error}): delete it, what MLflow lacks of run "
                f"{self.run_id} is then lost."
            ) from None

    def save(self, record: RunRecord) -> None:
        """Writes the record whole or not at all."""
        with self.guard:
            text = json.dumps(dataclasses.asdict(record), indent=2)
            fresh = self.path.with_suffix(".new")
            with open(fresh, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(fresh, self.path)

    def set_aside(self, stage: str) -> None:
        """Keeps a stage's present outputs for the delivery."""
        source, target = self.root / "artifacts" / stage, self.folder / stage
        shutil.rmtree(target, ignore_errors=True)
        if source.is_dir():
            # DVC removes outputs before it writes new ones, so that a link keeps the old bytes.
            shutil.copytree(
                source,
                target,
                ignore=shutil.ignore_patterns(*NOT_PUBLISHED),
                copy_function=_link_or_copy,
            )
        manifest = self.root / "artifacts" / "prepare" / MANIFEST
        if manifest.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(manifest, self.folder / "manifest.json")

    def restore(self, record: RunRecord, cache: Path) -> None:
        """Brings back from DVC's cache what was set aside for a run that had been delivered.

        Raises:
            TaskError: The cache lacks a file.
        """
        for name, stage in record.stages.items():
            here = Path("artifacts") / name
            for path, md5 in stage.outs.items():
                for file, source in files_of(cache, path, md5):
                    inside = Path(file).relative_to(here)
                    if inside == MANIFEST:
                        self._bring(source, Path(MANIFEST.name))
                    elif inside.parts[0] not in NOT_PUBLISHED:
                        self._bring(source, name / inside)

    def _bring(self, source: Path, inside: Path) -> None:
        target = self.folder / inside
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        if not source.exists():
            raise TaskError(
                f"run {self.run_id}: DVC's cache has no longer {inside}: "
                "`dvc fetch --all-branches`, then `instar sync --all` again."
            )
        _link_or_copy(str(source), str(target))

    def clear(self) -> None:
        """Forgets the files set aside."""
        shutil.rmtree(self.folder, ignore_errors=True)


def known_runs(root: Path) -> list[str]:
    """The runs of this checkout that have a record, oldest first."""
    return [path.stem for path in sorted((root / _RUNS).glob("*.json"))]


def has_ended(root: Path, run_id: str) -> bool:
    """Whether a run of this checkout is over, also if killed; False for one it never had."""
    shelf = Shelf(root, run_id)
    if not shelf.path.exists():
        return False
    free = shelf.lock()
    if free is None:
        return False
    free.close()
    return True


def was_killed(root: Path, run_id: str) -> bool:
    """Whether a run of this checkout is over, and said so neither itself nor lately.

    One that has just ended has still its worktree to remove and Prefect to tell.
    """
    record = Shelf(root, run_id).load()
    lately = record and record.ended and time.time() - record.ended / 1000 < _LAST_WORDS
    return has_ended(root, run_id) and not lately


def ended_runs(root: Path) -> Iterator[tuple[Shelf, RunRecord]]:
    """The runs that are over, oldest first, each held while it is looked at."""
    for run in known_runs(root):
        shelf = Shelf(root, run)
        held = shelf.lock()
        if held is None:
            continue
        with held:
            record = None
            with contextlib.suppress(TaskError):  # `instar doctor` reports one that is damaged
                record = shelf.load()
            if record is not None:
                yield shelf, record


def new_record(root: Path, run_id: str) -> RunRecord:
    """The record of a flow run that starts now, with the settings it starts with."""
    from tasks.settings.loading import load_params

    whole: dict[str, Any] = load_params(root / "params.yaml").model_dump(mode="json", by_alias=True)
    params = {name: str(value) for name, value in flatten(whole)}
    return RunRecord(run_id, time.time_ns() // 1_000_000, whole["register"]["name"], params)


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(os.path.realpath(source), target)
    except OSError:
        shutil.copyfile(source, target)
