"""`instar sync`: what servers that were away missed, brought to them."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

from tasks.errors import TaskError
from tasks.operations.backlog import settle_debts
from tasks.operations.registry_rebuild import rebuild_versions
from tasks.tracking.publisher import sync
from tasks.tracking.run_records import has_ended, known_runs
from tasks.versioning.dvc_remote import require_dvc


def catch_up(root: Path, everything: bool) -> dict[str, Any]:
    """Deliver past runs to MLflow, then push and register what waited, as plain JSON.

    `left` says why each run that still lacks something does so; `running` are left alone.
    """
    require_dvc(root)
    delivery = sync(root, everything=everything)
    # MLflow's own bars and advice would wall the terminal.
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        rebuilt: list[str] = []
        left: dict[str, str] = {}
        if everything and not delivery.left:
            try:
                rebuilt = rebuild_versions(root)
            except TaskError as problem:
                left["versions"] = str(problem)
        settled = settle_debts(root)
    return {
        "delivered": delivery.delivered,
        "pushed": settled.pushed,
        "rebuilt_versions": rebuilt,
        "registered": settled.registered,
        "running": [run for run in known_runs(root) if not has_ended(root, run)],
        "left": {**left, **settled.left, **delivery.left},
    }


def show(result: dict[str, Any]) -> str:
    """What was done, in a few lines."""
    lines = []
    if result["delivered"]:
        lines.append(f"Delivered to MLflow: {', '.join(result['delivered'])}.")
    if result["pushed"]:
        lines.append(f"Pushed: {', '.join(result['pushed'])}.")
    if result["rebuilt_versions"]:
        lines.append(f"Rebuilt versions: {', '.join(result['rebuilt_versions'])}.")
    lines += [f"Registered {what} (run {run})." for run, what in result["registered"].items()]
    if lines:
        lines.append("Next: instar ui")
    if result["running"]:
        lines.append(f"Left alone, as still running: {', '.join(result['running'])}.")
    if not lines and not result["left"]:
        lines.append("Nothing to deliver: the servers have it all.")
    return "\n".join(lines)
