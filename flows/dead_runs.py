"""Runs that were killed: Prefect would show them as running for ever."""

from __future__ import annotations

from pathlib import Path

from tasks.shelf import was_killed


def mark_dead_runs(root: Path) -> list[str]:
    """Mark as Crashed every flow run of this checkout whose process is gone; returns their names.

    Prefect must answer. Flow runs bear the names of runs, and a run's process holds a lock as long
    as it lives, so runs of other checkouts on the same server are left alone.
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

    live = FlowRunFilterStateType(any_=[StateType.RUNNING, StateType.CANCELLING])
    state: State[None] = Crashed(message="Its process was killed; the next run goes on from there.")
    marked = []
    with get_client(sync_client=True) as client:
        for run in client.read_flow_runs(
            flow_filter=FlowFilter(name=FlowFilterName(any_=["retrain"])),
            flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=live)),
        ):
            if not was_killed(root, run.name):
                continue
            client.set_flow_run_state(run.id, state, force=True)
            of_run = FlowRunFilter(id=FlowRunFilterId(any_=[run.id]))
            for step in client.read_task_runs(flow_run_filter=of_run):
                if not step.state or not step.state.is_final():
                    client.set_task_run_state(step.id, state, force=True)
            marked.append(run.name)
    return marked
