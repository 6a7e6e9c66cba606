"""A comparison in MLflow: a parent run with the leaderboard, a child run for each cell."""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.comparison.grid import CellResult
from tasks.comparison.leaderboard import Standing, rows, verdict
from tasks.settings.loading import load_params
from tasks.tracking import client as tracking_client
from tasks.tracking import metrics as tracking_metrics
from tasks.tracking import runs
from tasks.tracking.client import explained

if TYPE_CHECKING:
    from mlflow import MlflowClient

COMPARISON = "instar.comparison"
CELL = "instar.cell"
_HEADLINES = ("pretrained.accuracy.", "scratch.accuracy.", "gain.")


def record(
    name: str, root: Path, results: Sequence[CellResult], standings: Sequence[Standing]
) -> str:
    """Record in MLflow a comparison that has ended.

    Args:
        name: The comparison's.
        root: The checkout.
        results: One a cell.
        standings: The leaderboard.

    Returns:
        The parent run's id.

    Raises:
        TaskError: MLflow does not answer, or refuses.
    """
    from mlflow.entities import Param

    failed = any(result.reason for result in results)
    with explained(tracking_client.tracking_uri_of(root)) as client:
        model = load_params(root / "params.yaml").register_.name
        experiment = runs.ensure_experiment(client, model, root)
        parent = client.create_run(experiment, tags={COMPARISON: name}, run_name=f"compare {name}")
        run = parent.info.run_id
        for result in results:
            _child(client, experiment, run, name, result)
        best = standings[0]
        numbers = {"cells": float(len(results)), "failed": float(sum(map(_failed, results)))}
        if best.pretrained is not None:
            numbers["best.accuracy"] = best.pretrained.mean
        params = [Param(f"best.{key}", value) for key, value in best.varied.items()]
        client.log_batch(run, tracking_metrics.as_metrics(numbers), params)
        client.set_tag(run, "mlflow.note.content", verdict(standings))
        client.log_text(run, as_csv(rows(standings)), "leaderboard.csv")
        client.log_text(run, as_markdown(rows(standings), verdict(standings)), "leaderboard.md")
        client.set_terminated(run, "FAILED" if failed else "FINISHED")
    return run


def as_csv(table: Sequence[dict[str, Any]]) -> str:
    """The rows with a header; a number that is not known is empty."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, fieldnames=list(table[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    return stream.getvalue()


def as_markdown(table: Sequence[dict[str, Any]], said: str) -> str:
    """The rows as a table, and what they say."""
    lines = [" | ".join(table[0]), " | ".join("---" for _ in table[0])]
    for row in table:
        cells = ["" if value is None else str(value) for value in row.values()]
        lines.append(" | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells))
    return f"{said}\n\n" + "".join(f"| {line} |\n" for line in lines)


def _child(
    client: MlflowClient, experiment: str, parent: str, name: str, result: CellResult
) -> None:
    from mlflow.entities import Param, RunTag

    cell = result.cell
    tags = {runs.PARENT: parent, COMPARISON: name, CELL: cell.name}
    ended = time.time_ns() // 1_000_000
    # Its length is that of the computation, be it this one or the one in the cache.
    started = ended - int(1000 * (result.seconds or 0))
    made = client.create_run(experiment, started, tags, run_name=cell.name)
    metrics: dict[str, float] = {}
    if result.evidence is not None:
        found = json.loads((result.evidence / "metrics.json").read_text(encoding="utf-8"))
        numbers = tracking_metrics.numbers(found)
        metrics = {key: value for key, value in numbers.items() if key.startswith(_HEADLINES)}
    if result.seconds is not None:
        metrics["seconds"] = result.seconds
    params = [Param(key, value) for key, value in {**cell.varied, "seed": str(cell.seed)}.items()]
    notes = [RunTag("stages", json.dumps(result.stages))]
    if result.reason is not None:
        notes.append(RunTag("reason", result.reason[:5000]))
    if result.experiment is not None:
        notes.append(RunTag("dvc_experiment", result.experiment))
    client.log_batch(made.info.run_id, tracking_metrics.as_metrics(metrics), params, notes)
    client.set_terminated(made.info.run_id, "FAILED" if _failed(result) else "FINISHED", ended)


def _failed(result: CellResult) -> bool:
    return result.reason is not None
