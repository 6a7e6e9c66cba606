"""One flow run's way into MLflow: what to send next, what is there already, when a run is whole.

Every step may be repeated: a delivery that broke off anywhere is taken up by the next `advance`, in
this process or in a later one.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.tracking import client as tracking_client
from tasks.tracking import metrics, runs
from tasks.tracking.journal import journal_path, read_journal
from tasks.tracking.run_records import RunRecord, Shelf, StageRecord

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

ENDINGS = {"ran": "FINISHED", "cached": "FINISHED", "failed": "FAILED"}
# Of evaluate's metrics.json: what a person compares flow runs by.
HEADLINES = ("pretrained.accuracy.", "scratch.accuracy.", "gain.")


class Delivery:
    """Delivers one record; raises whatever MLflow raises and can then be asked again."""

    def __init__(self, root: Path, record: RunRecord, shelf: Shelf, tracking_uri: str):
        self.root = root
        self.record = record
        self.shelf = shelf
        self._uri = tracking_uri
        self._connection: tuple[MlflowClient, str] | None = None
        self._sent: dict[str, set[tuple[str, int]]] = {}
        self._doubtful: set[str] = set()
        self._checked = False

    def advance(self) -> None:
        """Sends all that is new; marks the record delivered once the ended run is whole."""
        try:
            client, experiment = self._connect()
            self._forget_what_mlflow_lost(client)
            parent = self._parent(client, experiment)
            for name, stage in list(self.record.stages.items()):
                if not stage.delivered:
                    self._stage(client, experiment, parent, name, stage)
            with self.shelf.guard:
                # A stage may have been added since the loop above.
                whole = all(stage.delivered for stage in self.record.stages.values())
            if self.record.status and whole:
                client.set_terminated(parent, self.record.status, self.record.ended)
                self.record.delivered = True
                self.shelf.save(self.record)
                self.shelf.clear()
        except Exception:
            # The last request may have arrived although its answer did not.
            self._doubtful.update(stage.key for stage in self.record.stages.values())
            # Another database may answer next time.
            self._connection, self._checked = None, False
            raise

    def arrived(self) -> bool:
        """Whether MLflow (still) has the run."""
        client, experiment = self._connect()
        tag = {runs.FLOW_RUN: self.record.run_id}
        return runs.find_run(client, experiment, tag) is not None

    def _connect(self) -> tuple[MlflowClient, str]:
        if self._connection is None:
            client = tracking_client.connect(self._uri)
            name, home = self.record.experiment, self.shelf.home
            self._connection = client, runs.ensure_experiment(client, name, home)
        return self._connection

    def _forget_what_mlflow_lost(self, client: MlflowClient) -> None:
        """After an outage MLflow may be back with an empty database."""
        if not self._checked and self.record.parent and not runs.knows(client, self.record.parent):
            self.record.forget_arrivals()
            self._sent.clear()
            self.shelf.save(self.record)
        self._checked = True

    def _parent(self, client: MlflowClient, experiment: str) -> str:
        record = self.record
        if record.parent is None:
            parent = runs.ensure_parent(client, experiment, record.run_id, record.began)
            runs.log_params(client, parent, record.params)
            record.parent = parent
            self.shelf.save(record)
        return record.parent

    def _stage(
        self, client: MlflowClient, experiment: str, parent: str, name: str, stage: StageRecord
    ) -> None:
        path = journal_path(self.root, name, stage.key)
        if stage.status == "running":
            # DVC may still find it in its cache: there is a run only once the stage says something.
            begun = path.exists() and path.stat().st_size > stage.announced
            if self.record.status is None:
                if begun:
                    self._ensure_run(client, experiment, parent, name, stage)
                    self._send_journal(client, stage, path)
                return
            if not begun:
                # The flow ended before the stage did anything.
                stage.delivered = True
                return
        if stage.status == "cached":
            key = {runs.STAGE: name, runs.STAGE_KEY: stage.key}
            known = runs.find_run(client, experiment, key, status="FINISHED")
            if known is None:
                self._rebuild(client, experiment, parent, name, stage, path)
            else:
                if stage.run not in (None, known.info.run_id):
                    # Begun on the journal of another run, whose result this one waited for.
                    client.delete_run(stage.run)
                stage.run = known.info.run_id
            client.set_tag(parent, f"cached.{name}", stage.run)
        else:
            self._ensure_run(client, experiment, parent, name, stage)
            self._send_journal(client, stage, path)
            self._finish(client, name, stage)
        self._headlines(client, parent, name)
        stage.delivered = True
        self.shelf.save(self.record)

    def _rebuild(
        self,
        client: MlflowClient,
        experiment: str,
        parent: str,
        name: str,
        stage: StageRecord,
        path: Path,
    ) -> None:
        """Makes the run that the store lacks: from the journal, in a fresh clone from the files."""
        run = self._ensure_run(client, experiment, parent, name, stage)
        journaled = bool(_finished_ends(path, stage.closed))
        if journaled:
            self._send_journal(client, stage, path)
        else:
            history = self.shelf.folder / name / "history.csv"
            curves = metrics.history_metrics(history, self.record.began)
            runs.log_metrics(client, run, curves)
        client.set_tag(run, "rebuilt_from", "journal" if journaled else "artifacts")
        self._finish(client, name, stage)

    def _ensure_run(
        self, client: MlflowClient, experiment: str, parent: str, name: str, stage: StageRecord
    ) -> str:
        if stage.run is None:
            stage.run = runs.ensure_child(
                client, experiment, parent, name, stage.key, self.record.began
            )
            self._doubtful.add(stage.key)
            self.shelf.save(self.record)
        return stage.run

    def _send_journal(self, client: MlflowClient, stage: StageRecord, path: Path) -> None:
        origin, until = _extent(path, stage)
        if stage.offset is None:
            stage.offset = origin
        if stage.key not in self._sent:
            # A new process knows from the journal itself what an earlier one has sent.
            before, _ = read_journal(path, origin, until)
            after, _ = read_journal(path, stage.offset, until)
            done = before[: max(0, len(before) - len(after))]
            self._sent[stage.key] = {(m.key, m.step) for m in _points(done)}
            self._doubtful.add(stage.key)
        events, offset = read_journal(path, stage.offset, until)
        points, fresh = [], set()
        for point in _points(events):
            spot = (point.key, point.step)
            if spot not in self._sent[stage.key] and spot not in fresh:
                fresh.add(spot)
                points.append(point)
        if points and stage.key in self._doubtful:
            there = _there(client, str(stage.run), {point.key for point in points})
            points = [point for point in points if (point.key, point.step) not in there]
        runs.log_metrics(client, str(stage.run), points)
        self._doubtful.discard(stage.key)
        self._sent[stage.key] |= fresh
        if offset != stage.offset:
            stage.offset = offset
            self.shelf.save(self.record)

    def _finish(self, client: MlflowClient, name: str, stage: StageRecord) -> None:
        run, record = str(stage.run), self.record
        group = "data." if name == "prepare" else f"{name}."
        settings = {key: value for key, value in record.params.items() if key.startswith(group)}
        runs.log_params(client, run, settings)
        if stage.status in ("ran", "cached"):
            curves = client.get_run(run).data.metrics
            final = {k: v for k, v in self._numbers(name).items() if k not in curves}
            runs.log_metrics(client, run, metrics.as_metrics(final, 0, record.began))
            self._log_dataset(client, run)
            runs.log_folder(client, run, self.shelf.folder / name)
        last, _ = read_journal(journal_path(self.root, name, stage.key), until=stage.closed)
        client.set_terminated(
            run, ENDINGS.get(stage.status, "KILLED"), last[-1]["time"] if last else record.ended
        )

    def _headlines(self, client: MlflowClient, parent: str, name: str) -> None:
        """Puts on the flow run what it is opened for: the data, the numbers, the report."""
        if name == "prepare":
            self._log_dataset(client, parent)
        if name == "evaluate":
            numbers = self._numbers(name)
            heads = {key: value for key, value in numbers.items() if key.startswith(HEADLINES)}
            runs.log_metrics(client, parent, metrics.as_metrics(heads, 0, self.record.began))
            report = self.shelf.folder / name / "report.html"
            if report.exists():
                client.log_artifact(parent, str(report))

    def _numbers(self, name: str) -> dict[str, float]:
        path = self.shelf.folder / name / ("summary.json" if name == "prepare" else "metrics.json")
        return metrics.numbers(json.loads(path.read_text("utf-8"))) if path.exists() else {}

    def _log_dataset(self, client: MlflowClient, run: str) -> None:
        path = self.shelf.folder / "manifest.json"
        if path.exists():
            manifest = json.loads(path.read_text(encoding="utf-8"))
            name = self.record.params.get("data.source", "data")
            images = int(manifest.get("count", 0))
            runs.log_dataset(client, run, name, str(manifest["digest"]), images)


def _points(events: list[dict[str, Any]]) -> list[Metric]:
    return [
        point
        for event in events
        if event["event"] == "metrics"
        for point in metrics.as_metrics(event["values"], event["step"], event["time"])
    ]


def _there(client: MlflowClient, run: str, names: set[str]) -> set[tuple[str, int]]:
    """What MLflow holds of these metrics."""
    return {(name, point.step) for name in names for point in client.get_metric_history(run, name)}


def _extent(path: Path, stage: StageRecord) -> tuple[int, int | None]:
    """Where this computation starts and ends in the journal, which may hold others of its key.

    It starts after the last one that had finished: a run that was killed is continued by its
    successor from a checkpoint, so its points belong to the successor's curve too.
    """
    ends = _finished_ends(path, stage.closed)
    if stage.status in ("ran", "cached"):
        ends = ends[:-1]
    else:
        ends = [end for end in ends if end <= stage.announced]
    return (ends[-1] if ends else 0), stage.closed


def _finished_ends(path: Path, until: int | None) -> list[int]:
    """Offsets just behind every event that says that the stage finished."""
    ends, position = [], 0
    try:
        with open(path, "rb") as file:
            for line in file:
                position += len(line)
                if until is not None and position > until:
                    break
                if b'"end"' in line and b'"finished"' in line:
                    ends.append(position)
    except FileNotFoundError:
        pass
    return ends
