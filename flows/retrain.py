"""The flow `retrain`: data and 1% of labels in, a registered and judged model out.

It computes nothing itself: every step is a function of `tasks`, wrapped with Prefect's `task`.
DVC is the one cache (`NO_CACHE` everywhere): a repeated run asks DVC again and costs seconds.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from prefect import Flow, flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run

from flows.dead_runs import mark_dead_runs
from flows.steps import Retraining, new_run_id, require_project
from tasks.errors import TaskError
from tasks.runner import STAGES
from tasks.workspace import isolated as isolated_workspace
from tasks.workspace import locked

if TYPE_CHECKING:
    from tasks.gate import Verdict

Result = TypeVar("Result")


# Named as the run is, so that `mark_dead_runs` finds it.
@flow(name="retrain", flow_run_name=new_run_id, validate_parameters=False)
def retrain(root: str, isolated: bool = True) -> dict[str, Any]:
    """Retrain in a worktree of HEAD (isolated) or in the checkout at `root` itself.

    Returns:
        What `flows.summary` shows: stages, metrics, registered version, verdict.
    """
    home = Path(root).resolve()
    require_project(home)
    run_id = flow_run.get_name() or new_run_id()
    tell = get_run_logger().info
    if not isolated:
        with locked(home, wait=True), Retraining(home, home, run_id, tell) as run:
            return conduct(run)
    with isolated_workspace(home, run_id) as place:
        require_project(place)
        with Retraining(place, home, run_id, tell) as run:
            return conduct(run)


def flow_in_checkout(run: Retraining) -> Flow[[str, str], dict[str, Any]]:
    """The same flow on a run that has been opened already (`instar run`)."""

    def retrain_here(root: str, run_id: str) -> dict[str, Any]:
        return conduct(run)

    named = flow(name="retrain", flow_run_name=run.run_id, validate_parameters=False)
    return named(retrain_here)


def conduct(run: Retraining) -> dict[str, Any]:
    """All steps in their order, each a Prefect task."""
    with contextlib.suppress(Exception):  # housekeeping, which must not cost the run
        for name in mark_dead_runs(run.home):
            get_run_logger().warning("run %s had been killed: marked as crashed", name)
    _step("fetch", run.fetch)
    for stage in STAGES:
        outcome = _step(stage, partial(run.stage, stage))
        get_run_logger().info("%s %s in %.0f s", stage, outcome.status, outcome.seconds)
    unpushed = _attempt("push", run.push)
    _step("snapshot", run.snapshot)
    _step("publish", run.publish)
    if unpushed is not None:
        raise unpushed  # all that can be kept is kept; registration needs the push
    _step("register", run.register)
    verdict = _step("gate", run.judge)
    with contextlib.suppress(Exception):  # the model is registered, shown or not
        _show_verdict(verdict)
    return run.result()


def _step(name: str, do: Callable[[], Result]) -> Result:
    def step() -> Result:
        return do()

    # Its run's name too: Prefect would add a hash.
    named = task(name=name, task_run_name=name, cache_policy=NO_CACHE, persist_result=False)
    return named(step)()


def _attempt(name: str, do: Callable[[], object]) -> TaskError | None:
    """Like `_step`, but hands an explained problem back instead of ending the flow."""
    try:
        _step(name, do)
    except TaskError as problem:
        return problem
    return None


def _show_verdict(verdict: Verdict) -> None:
    """Put the verdict on the flow run's page."""
    from prefect.artifacts import create_markdown_artifact

    reasons = "\n".join(f"- {reason}" for reason in verdict.reasons)
    again = ", as before" if verdict.repeated else ""
    create_markdown_artifact(
        f"# {verdict.name} version {verdict.version}: {verdict.outcome}{again}\n\n{reasons}\n",
        key="verdict",
        description=verdict.outcome,
    )
