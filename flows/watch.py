"""The flow `watch`: a cheap look at the data and, when they changed or drifted, one retraining.

The retraining is a sub-flow, so its page hangs below that of the look that started it. Looks go on
meanwhile: they find it going on and start nothing.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from prefect import State, flow, get_run_logger
from prefect.states import Completed, Failed

from flows.orchestration.crashed_runs import sign_of_life
from flows.orchestration.cron import CronLine
from flows.orchestration.deployments import deploy
from flows.retrain import retrain
from tasks.execution.preflight import require_project
from tasks.execution.workspace import BusyError
from tasks.monitoring.data_watch import Report, Start, Started, due, look, note_started, one_start
from tasks.monitoring.drift import ALPHA, SAMPLE
from tasks.monitoring.summary import markdown, rows, sentence

ENTRYPOINT = "flows/watch.py:watch"


@flow(name="watch", validate_parameters=False)
def watch(
    root: str,
    start: Start = "changed",
    alpha: float = ALPHA,
    sample: int = SAMPLE,
    settle: float = 60.0,
) -> State[None]:
    """Look at the data of the checkout at `root`; start a retraining if one is due.

    Args:
        root: The checkout.
        start: Whether a change is enough, or only drift of the new images counts.
        alpha: Share of false alarms of the drift test.
        sample: Images of each side that it compares at most.
        settle: Seconds that the data must have rested, so that a copy going on is not taken half.

    Returns:
        A state whose name says what came of it: Unchanged, Waiting, Retrained, or Skipped.
    """
    home = Path(root).resolve()
    require_project(home)
    try:
        with sign_of_life(home), one_start(home):
            report = look(home, alpha, sample)
            _show(report)
            now, why = due(report, start, settle)
            get_run_logger().info("%s; %s", sentence(report), why if report.changed else "no run")
            if not now:
                name = "Waiting" if report.changed else "Unchanged"
                return Completed(name=name, message=_capital(why))
            return _retrained(home, report, why)
    except BusyError as going_on:
        return Completed(name="Waiting", message=_capital(str(going_on)))


def create_watch(root: Path, when: CronLine, name: str, pool: str, **options: Any) -> str:
    """Create or change the deployment `watch/<name>`; returns its full name.

    Args:
        root: The checkout.
        when: Cron line of the looks.
        name: Of the deployment.
        pool: The work pool that serves it.
        **options: Parameters of the flow.
    """
    return deploy(
        watch,
        ENTRYPOINT,
        root,
        when,
        name,
        pool,
        options,
        tags=["instar", "watch"],
        description="Looks at the data of this checkout; retrains when they changed or drifted.",
    )


def _retrained(home: Path, report: Report, why: str) -> State[None]:
    started = Started(report.version)
    note_started(home, started)
    state = retrain(root=str(home), take_data=True, return_state=True)
    said = " ".join((state.message or state.name or "").split())
    if state.is_crashed() or state.is_cancelled():
        # Not the data's fault: `started` stays as it is, and the next look starts again.
        return Failed(message=f"{_capital(why)}; the run broke off: {said}")
    started.outcome = "failed" if state.is_failed() else "done"
    started.said = said
    note_started(home, started)
    if state.is_failed():
        return Failed(message=f"{_capital(why)}; the run failed: {said}")
    name = "Skipped" if state.name == "Skipped" else "Retrained"
    return Completed(name=name, message=f"{_capital(why)}. {said}")


def _show(report: Report) -> None:
    """Put what was found on the page of the flow run."""
    from prefect.artifacts import create_markdown_artifact, create_table_artifact

    if not report.changed:
        return
    with contextlib.suppress(Exception):  # the look counts, shown or not
        create_markdown_artifact(markdown(report), key="data-changes", description=sentence(report))
        if report.drift:
            create_table_artifact(
                rows(report.drift), key="drift", description="each measure by itself"
            )


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
