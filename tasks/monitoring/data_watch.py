"""Has the data changed since the last registered run, have they drifted, is a run due?

Nothing here starts one. What was started is noted in `.instar/watch/`, so that one state of the
data starts one run.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tasks.errors import TaskError
from tasks.execution.workspace import BusyError
from tasks.monitoring.data_snapshot import WATCH, Listing, items_of, list_data, remember
from tasks.monitoring.drift import (
    ALPHA,
    SAMPLE,
    Drift,
    UnmeasuredError,
    measure_drift,
    production_version,
)
from tasks.monitoring.two_sample_test import Statistic
from tasks.settings.loading import load_params
from tasks.system.atomic_files import keep_json
from tasks.system.locks import HeldError, held
from tasks.tracking.client import tracking_uri_of
from tasks.versioning.dvc_cache import cache_folder, files_of
from tasks.versioning.past_runs import RawData, last_registered, raw_data_of

Start = Literal["changed", "drifted"]
_STARTED = WATCH / "started.json"
_MEASURED = WATCH / "drift.json"
# How many names of each kind are listed.
_FIRST = 5


@dataclass(frozen=True)
class Items:
    """Some items: how many, and the names of the first ones."""

    count: int
    first: list[str]


@dataclass
class Started:
    """The last run that was started because of the data.

    Attributes:
        version: Of the data.
        outcome: 'running' until it has ended; of one whose process was killed, for ever.
        said: How it ended, in a sentence.
    """

    version: str
    outcome: Literal["running", "done", "failed"] = "running"
    said: str = ""


@dataclass(frozen=True)
class Report:
    """What one look found.

    Attributes:
        path: `data.path`.
        version: DVC's md5 of the data as they are.
        items: How many they are.
        since: The version whose run the data are compared with; None before the first.
        changed: Whether they differ from those of that run.
        new: Items that it did not have; None where its items are not known.
        removed: Items that it had; likewise.
        altered: Items of the same name and other content; likewise.
        newest: When something of them last changed, in Unix seconds.
        drift: Of the new images, if it was measured.
        not_measured: Why it was not, if they changed.
        decides_alone: Whether there is no version in Production yet to measure it against.
        started: What became of the run that this state of the data started, if it did.
    """

    path: str
    version: str
    items: int
    since: str | None
    changed: bool
    new: Items | None
    removed: Items | None
    altered: Items | None
    newest: float
    drift: Drift | None = None
    not_measured: str | None = None
    decides_alone: bool = False
    started: Started | None = None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return dataclasses.asdict(self)


def look(root: Path, alpha: float = ALPHA, most: int = SAMPLE) -> Report:
    """Compare the data with those of the last registered run; measure drift if they changed.

    Args:
        root: The checkout.
        alpha: See `measure_drift`.
        most: Likewise.

    Raises:
        TaskError: There are no data to look at.
    """
    params = load_params(root / "params.yaml")
    listing = list_data(root, params.data.path)
    last = last_registered(root, params.register_.name)
    former = raw_data_of(root, last[1]) if last else None
    started = last_started(root)
    if started and started.version != listing.version:
        started = None
    remember(root, listing, former.version if former else None)
    report = Report(
        params.data.path,
        listing.version,
        len(listing.items),
        last[0] if last else None,
        former is None or former.version != listing.version,
        *_differences(root, listing, former),
        listing.newest,
        started=started,
    )
    if not report.changed:
        return report
    try:
        production = production_version(root, tracking_uri_of(root))
        if production is None:
            said = f"no version of {params.register_.name} is in Production yet to measure against"
            return dataclasses.replace(report, decides_alone=True, not_measured=said)
        drift = _drift(root, listing, production, alpha, most)
        return dataclasses.replace(report, drift=drift)
    except UnmeasuredError as why:
        return dataclasses.replace(report, not_measured=str(why))


def due(report: Report, start: Start, settle: float) -> tuple[bool, str]:
    """Whether a run should start now, and why or why not, in a sentence."""
    if not report.changed:
        return False, f"nothing changed since {report.since}"
    if report.started and report.started.outcome != "running":
        return False, f"a run was started for these data already: {report.started.said}"
    age = time.time() - report.newest
    if age < settle:
        return (
            False,
            f"the data changed {age:.0f} s ago; a run waits until they rest for {settle:g} s",
        )
    if start == "changed" or report.decides_alone:
        return True, "the data changed"
    if report.drift is None:
        return False, f"drift was not measured: {report.not_measured}"
    word = "drifted" if report.drift.drifted else "did not drift"
    return report.drift.drifted, f"the new images {word} (p = {report.drift.p:.4g})"


@contextmanager
def one_start(root: Path) -> Iterator[None]:
    """Hold the start of runs: of two looks at the same change one starts a run, however long.

    Raises:
        BusyError: Another process holds it: such a run goes on.
    """
    try:
        with held(root / WATCH / "start.lock", "instar watch"):
            yield
    except HeldError as other:
        raise BusyError(f"another look, or the run that it started, goes on ({other})") from None


def last_started(root: Path) -> Started | None:
    """The last run that was started because of the data."""
    with suppress(OSError, ValueError, TypeError):
        return Started(**json.loads((root / _STARTED).read_text(encoding="utf-8")))
    return None


def note_started(root: Path, started: Started) -> None:
    """Keep what was started, or how it ended."""
    keep_json(root / _STARTED, dataclasses.asdict(started))


def _differences(
    root: Path, listing: Listing, former: RawData | None
) -> tuple[Items | None, Items | None, Items | None]:
    """What is new, what is gone, what is altered."""
    before = _items_of(root, former) if former else {}
    if before is None:
        return None, None, None
    now = listing.items
    altered = [name for name in now if name in before and now[name] != before[name]]
    new, gone = now.keys() - before.keys(), before.keys() - now.keys()
    if former and former.version != listing.version and not (new or gone or altered):
        # Only a part of each member of an archive is looked at.
        altered = [Path(former.path).name]
    return _some(new), _some(gone), _some(altered)


def _some(names: Collection[str]) -> Items:
    return Items(len(names), sorted(names)[:_FIRST])


def _items_of(root: Path, raw: RawData) -> dict[str, str] | None:
    """The items of a past run's data: remembered, or from DVC's cache; None if neither has them."""
    known = items_of(root, raw.version, None)
    if known is not None:
        return known
    try:
        files = list(files_of(cache_folder(root), raw.path, raw.version))
    except TaskError:
        return None
    if raw.version.endswith(".dir"):
        return {
            name.removeprefix(f"{raw.path}/"): f"{file.parent.name}{file.name}"
            for name, file in files
        }
    file = files[0][1]
    if not file.exists():
        return None
    return items_of(root, raw.version, file) or {Path(raw.path).name: raw.version}


def _drift(
    root: Path, listing: Listing, production: tuple[str, str], alpha: float, most: int
) -> Drift:
    """Measured, or as it was measured when the same was asked before.

    Raises:
        UnmeasuredError: See `measure_drift`; or Production knows all of the images.
    """
    asked = [listing.version, *production, alpha, most]
    with suppress(OSError, ValueError, KeyError, TypeError):
        kept = json.loads((root / _MEASURED).read_text(encoding="utf-8"))
        if kept.pop("asked") == asked:
            statistics = [Statistic(**each) for each in kept.pop("statistics")]
            return Drift(**kept, statistics=statistics)
    names = _unknown_to(root, listing, production[1])
    if names is not None and not names:
        raise UnmeasuredError(f"nothing was added or altered since {production[0]}")
    drift = measure_drift(root, production, names, alpha, most)
    keep_json(root / _MEASURED, {**dataclasses.asdict(drift), "asked": asked})
    return drift


def _unknown_to(root: Path, listing: Listing, commit: str) -> set[str] | None:
    """Items that a past run did not read as they are now; None if that is unknown."""
    try:
        before = _items_of(root, raw_data_of(root, commit))
    except TaskError as problem:
        raise UnmeasuredError(str(problem)) from None
    if before is None:
        return None
    return {name for name, content in listing.items.items() if before.get(name) != content}
