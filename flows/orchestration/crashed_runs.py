"""Runs that were killed: Prefect would show them as running for ever."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tasks.system.locks import held, is_free
from tasks.tracking.run_records import was_killed


@contextmanager
def sign_of_life(home: Path) -> Iterator[Path]:
    """Show for as long as a flow run goes on that it lives; those that were killed are marked.

    Yields:
        A folder for its own use, not made yet, which goes with the run.
    """
    from prefect import get_run_logger
    from prefect.runtime import flow_run

    with contextlib.suppress(Exception):  # housekeeping, which must not cost the run
        for name in mark_dead_runs(home):
            get_run_logger().warning("run %s had been killed: marked as crashed", name)
    folder = _folder(home, str(flow_run.get_id()))
    # Waits for no more than a glance of `mark_dead_runs`.
    with held(_sign(folder), "a flow run", wait=True):
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def mark_dead_runs(root: Path) -> list[str]:
    """Mark as Crashed every flow run of this checkout whose process is gone; returns their names.

    Prefect must answer. A retraining has the name of its run, whose process holds a lock as long
    as it lives; other flows hold a `sign_of_life`. So runs of other checkouts on the same server
    are left alone.
    """
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import (
        FlowFilter,
        FlowFilterName,
        FlowRunFilter,
        FlowRunFilterId,
        FlowRunFilterState,
        FlowRunFilterStateType,
    )
    from prefect.client.schemas.objects import State, StateType
    from prefect.states import Crashed

    ours = FlowFilterName(any_=["retrain", "watch", "compare"])
    live = FlowRunFilterStateType(any_=[StateType.RUNNING, StateType.CANCELLING])
    state: State[None] = Crashed(message="Its process was killed; the next run goes on from there.")
    marked = []
    with get_client(sync_client=True) as client:
        for run in client.read_flow_runs(
            flow_filter=FlowFilter(name=ours),
            flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=live)),
        ):
            folder = _folder(root, str(run.id))
            if not (was_killed(root, run.name) or _died(_sign(folder))):
                continue
            client.set_flow_run_state(run.id, state, force=True)
            of_run = FlowRunFilter(id=FlowRunFilterId(any_=[run.id]))
            for step in client.read_task_runs(flow_run_filter=of_run):
                if not step.state or not step.state.is_final():
                    client.set_task_run_state(step.id, state, force=True)
            shutil.rmtree(folder, ignore_errors=True)
            _sign(folder).unlink(missing_ok=True)
            marked.append(run.name)
    return marked


def _folder(root: Path, flow_run: str) -> Path:
    return root / ".instar" / "flows" / flow_run


def _sign(folder: Path) -> Path:
    return folder.with_suffix(".lock")


def _died(sign: Path) -> bool:
    """Whether the holder of a sign is gone without having removed it."""
    try:
        # Empty, it has not been taken yet; gone, its holder ended in order while we looked.
        return bool(sign.read_bytes()) and is_free(sign) and sign.exists()
    except OSError:
        return False
