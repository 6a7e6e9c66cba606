"""Brings what happened into MLflow: live while it is up, later when it was not, never in the way.

The publisher keeps, per flow run, a record in `.instar/runs/<run_id>.json`: which stages there
were, which MLflow runs they became and how much of each journal has arrived. A thread delivers from
it; whatever is left when the flow ends is delivered by `sync`.

Each point arrives at least once and counts once: the record only moves on after MLflow took a
batch, and the first batch after a doubt (an outage, a new process) is compared with what MLflow
holds already.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from tasks.errors import TaskError
from tasks.system.proxies import by_proxy
from tasks.system.redaction import shown
from tasks.tracking.client import connect, refusal, require_answer, tracking_uri_of
from tasks.tracking.delivery import Delivery
from tasks.tracking.journal import journal_path, successor_start
from tasks.tracking.run_records import RunRecord, Shelf, StageRecord, Status, ended_runs, new_record
from tasks.versioning.dvc_cache import cache_folder
from tasks.versioning.stage_key import made_by_stages

POLL_SECONDS = 1.0
LONGEST_PAUSE = 30.0


@dataclass(frozen=True)
class SyncResult:
    """What `sync` did.

    Attributes:
        delivered: Flow runs that are now wholly in MLflow.
        left: Flow runs that are not, and why.
    """

    delivered: list[str]
    left: dict[str, str]


class Publisher:
    """Publishes one flow run from a background thread; the caller only says what happens.

    Attributes:
        notice: One sentence if MLflow could not be reached (the last reason), else None.
    """

    def __init__(
        self,
        root: str | Path,
        run_id: str,
        tracking_uri: str | None = None,
        on_notice: Callable[[str], None] | None = None,
    ):
        self.root = Path(root)
        self.notice: str | None = None
        self._uri = tracking_uri or tracking_uri_of(root)
        self._on_notice = on_notice
        self._shelf = Shelf(self.root, run_id)
        self._lock = self._shelf.lock()
        if self._lock is None:
            raise TaskError(f"Run {run_id} is being published by another process: wait for it.")
        self._record = self._shelf.load() or new_record(self.root, run_id)
        self._record.status = self._record.ended = None
        self._record.delivered = False
        self._shelf.save(self._record)
        self._changed = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name="publisher", daemon=True)
        self._thread.start()

    def stage(self, name: str, key: str, status: Status) -> None:
        """Reports that a stage starts ('running') or how it ended.

        The files of an ended stage are set aside at once (by hard link), so that a later run may
        overwrite them before MLflow has them.
        """
        path = journal_path(self.root, name, key)
        with self._shelf.guard:
            known = self._record.stages.get(name)
            if known is None or known.key != key or known.delivered:
                size = path.stat().st_size if path.exists() else 0
                # Without an announcement all of the journal counts as this run's.
                announced = size if status in ("running", "cached") else 0
                known = StageRecord(key, status, announced)
            known.closed = None
            if status != "running":
                known.closed = path.stat().st_size if path.exists() else 0
            if status in ("ran", "cached"):
                self._shelf.set_aside(name)
                outs = made_by_stages(self.root).items()
                known.outs = {p: md5 for p, md5 in outs if p.startswith(f"artifacts/{name}/")}
            # Last: the thread that delivers reads this unguarded, and must find the files then.
            known.status = status
            self._record.stages[name] = known
            self._shelf.save(self._record)
        self._changed.set()

    def close(self, status: str = "FINISHED", timeout: float = 30.0) -> bool:
        """`finish` and `release`."""
        arrived = self.finish(status, timeout)
        self.release()
        return arrived

    def finish(self, status: str, timeout: float) -> bool:
        """Ends the run and waits at most ``timeout`` seconds for MLflow to have all of it.

        Args:
            status: MLflow's word for how the flow ended: FINISHED, FAILED or KILLED.
            timeout: Seconds; what is left then is left for `sync`.

        Returns:
            Whether everything has arrived.
        """
        with self._shelf.guard:
            self._record.status = status
            self._record.ended = time.time_ns() // 1_000_000
            self._shelf.save(self._record)
        self._closing.set()
        self._changed.set()
        self._thread.join(timeout)
        return self._record.delivered

    def release(self) -> None:
        """Lets others see that this run has ended; not before its last delivery has."""
        if self._lock and not self._thread.is_alive():
            self._lock.close()
            self._lock = None

    def owe(self, commit: str, debts: list[str]) -> None:
        """Notes the run's commit and what is still to be done with it; see `operations.backlog`."""
        with self._shelf.guard:
            self._record.commit, self._record.owes = commit, debts
            self._shelf.save(self._record)

    def judged(self, commit: str, source: str, version: str) -> None:
        """Notes that nothing is left to be done; see `tasks.execution.skip_unchanged`."""
        with self._shelf.guard:
            self._record.source, self._record.version = source, version
            self.owe(commit, [])

    def __enter__(self) -> Publisher:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        else:
            killed = not issubclass(kind, Exception)
            self.close("KILLED" if killed else "FAILED")

    def _work(self) -> None:
        delivery = Delivery(self.root, self._record, self._shelf, self._uri)
        pause, past = POLL_SECONDS, True
        while True:
            closing = self._closing.is_set()
            self._changed.clear()
            try:
                if past:
                    # Earlier runs first: a stage that this one finds cached is linked to theirs.
                    require_answer(connect(self._uri))
                    sync(self.root, self._uri)
                    past = False
                delivery.advance()
                pause, arrived = POLL_SECONDS, True
            except Exception as error:
                # Whatever MLflow's trouble is, the run goes on and its journal stays.
                self._tell(error)
                pause, arrived = min(2 * pause, LONGEST_PAUSE), False
            # One last try after the close; what fails now is for `sync`.
            if closing and (self._record.delivered or not arrived):
                return
            if not arrived:
                self._closing.wait(pause)
            else:
                self._changed.wait(pause)

    def _tell(self, error: Exception) -> None:
        first = self.notice is None
        self.notice = trouble(self._uri, error)
        if first and self._on_notice:
            with contextlib.suppress(Exception):
                self._on_notice(self.notice)


def sync(
    root: str | Path = ".", tracking_uri: str | None = None, everything: bool = False
) -> SyncResult:
    """Delivers all that past flow runs still owe MLflow; runs in progress are left alone.

    Args:
        root: The checkout.
        tracking_uri: MLflow; see `client.tracking_uri_of`.
        everything: Also what had been delivered and MLflow has lost since, from the journals and
            DVC's cache.
    """
    root, uri = Path(root), tracking_uri or tracking_uri_of(root)
    delivered: list[str] = []
    left: dict[str, str] = {}
    away = None
    for shelf, record in ended_runs(root):
        if record.delivered and not everything:
            continue
        try:
            # Asked once: each run of a long queue would wait for the same dead server.
            away = away or _absent(uri)
            if away is not None:
                raise away
            if _deliver(record, shelf, uri):
                delivered.append(record.run_id)
        except Exception as error:
            known = isinstance(error, TaskError)
            left[record.run_id] = str(error) if known else trouble(uri, error)
    return SyncResult(delivered, left)


def _absent(uri: str) -> Exception | None:
    """What MLflow's first answer is, if it is none."""
    try:
        require_answer(connect(uri))
    except Exception as error:
        return error
    return None


def _deliver(record: RunRecord, shelf: Shelf, uri: str) -> bool:
    """Brings one past run into MLflow; False if it was there."""
    # A flow that was killed never said how it ended.
    record.status = record.status or "KILLED"
    for name, stage in record.stages.items():
        if stage.closed is None:
            path = journal_path(shelf.root, name, stage.key)
            stage.closed = successor_start(path, stage.announced)
    delivery = Delivery(shelf.root, record, shelf, uri)
    if record.delivered:
        if delivery.arrived():
            return False
        shelf.restore(record, cache_folder(shelf.root))
        record.forget_arrivals()
    delivery.advance()
    return True


def trouble(uri: str, error: Exception) -> str:
    """One sentence about an MLflow that does not answer as it should."""
    refused = refusal(uri, error)
    if refused is not None:
        return f"{refused} `instar sync` delivers the run later."
    reason = shown(" ".join(str(error).split()))[:200]
    return (
        f"MLflow at {shown(uri)} did not take the run{by_proxy(uri)}; `instar sync` delivers it "
        f"later ({reason})"
    )
