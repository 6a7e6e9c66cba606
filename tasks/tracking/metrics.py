"""Nested numbers as MLflow's flat metrics."""

from __future__ import annotations

import csv
import math
import posixpath
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow.entities import Metric


def flatten(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves of nested mappings and lists, with dotted names."""
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from flatten(value, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(tree, list) and any(isinstance(value, Mapping | list) for value in tree):
        for position, value in enumerate(tree):
            yield from flatten(value, f"{prefix}.{position}")
    else:
        yield prefix, tree


def numbers(tree: Any) -> dict[str, float]:
    """The numeric leaves of a metrics.json, under names that MLflow takes."""
    return {
        metric_name(name): float(value)
        for name, value in flatten(tree)
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def metric_name(name: str) -> str:
    """Class names may hold anything ('café (new)', 'and/or/'); metric names may not."""
    name = re.sub(r"[^\w\-. :/]", "_", name)[:250]
    # MLflow shows a/b as group a, but takes no name that is not a plain relative path.
    plain = posixpath.normpath(name) == name and not name.startswith(("/", ".."))
    return name if plain else name.replace("/", "_")


def as_metrics(values: Mapping[str, float], step: int = 0, at: int | None = None) -> list[Metric]:
    """MLflow's metrics of one step, at a time in Unix ms (now, if None)."""
    from mlflow.entities import Metric

    at = time.time_ns() // 1_000_000 if at is None else at
    return [Metric(metric_name(name), value, at, step) for name, value in values.items()]


def history_metrics(path: Path, at: int) -> list[Metric]:
    """The curves of a history.csv, for a store that never saw the stage run.

    Columns that tell rows apart (``arm``, ``draw``) become part of the name, ``epoch`` or ``step``
    is the step, every other numeric column is a curve. All points get the time ``at``: the file
    has none, by design.
    """
    if not path.exists():
        return []
    points = []
    with open(path, newline="", encoding="utf-8") as file:
        for position, row in enumerate(csv.DictReader(file)):
            which = "-".join(row.pop(name) for name in ("arm", "draw") if name in row)
            step = next((row.pop(name) for name in ("epoch", "step") if name in row), position)
            values = {(f"{which}.{name}" if which else name): _number(row[name]) for name in row}
            known = {name: value for name, value in values.items() if value is not None}
            points += as_metrics(known, int(float(step)), at)
    return points


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return None if math.isnan(value) else value
