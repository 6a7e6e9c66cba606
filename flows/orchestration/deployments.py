"""The nightly retraining: a Prefect deployment with a cron schedule, and the worker that serves it.

Prefect keeps and fires the schedule; nothing here is a scheduler of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.orchestration.crashed_runs import mark_dead_runs
from flows.orchestration.cron import CronLine, read_cron
from flows.orchestration.servers import PrefectServer
from tasks.errors import TaskError
from tasks.system.supervised_process import Leash

if TYPE_CHECKING:
    from prefect import Flow
    from prefect.client.orchestration import SyncPrefectClient

POOL = "instar"


def deploy(
    flow: Flow[..., Any],
    entrypoint: str,
    root: Path,
    when: CronLine,
    name: str,
    pool: str,
    parameters: Mapping[str, Any],
    **more: Any,
) -> str:
    """Create or change a deployment of a flow on this checkout, whose path is its first parameter.

    Args:
        flow: What it runs.
        entrypoint: Where a worker finds that, from `root`.
        root: The checkout.
        when: Its cron line.
        name: Of the deployment.
        pool: The work pool that serves it; made if there is none.
        parameters: Of the flow, besides `root`.
        **more: What else `Flow.to_deployment` takes.

    Returns:
        Its full name.
    """
    from prefect.client.orchestration import get_client
    from prefect.runner.storage import LocalStorage
    from prefect.schedules import Cron

    with get_client(sync_client=True) as client:
        ensure_pool(client, pool)
    # Not the path alone: Prefect clones one that ends in .git.
    source: Any = flow.from_source(source=LocalStorage(str(root)), entrypoint=entrypoint)
    # Not `deploy`, which does the same and prints a table.
    deployment = source.to_deployment(
        name=name,
        work_pool_name=pool,
        schedules=[Cron(when.line, timezone=when.timezone)],
        parameters={"root": str(root), **parameters},
        **more,
    )
    deployment.apply()
    return f"{flow.name}/{name}"


def serve(root: Path, pool: str, server: PrefectServer) -> int:
    """Run a process worker on the pool until it ends; returns its exit status.

    The worker's own lines go to `.instar/logs/worker.log`.
    """
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        ensure_pool(client, pool)
        _drop_missed_runs(client, pool)
        for warning in _unfit_schedules(client, pool):
            print(f"warning: {warning}", flush=True)
    mark_dead_runs(root)
    # The flow is loaded by its path: the rooms must be importable from the checkout.
    paths = [str(root), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        # The worker's log is a file: here Prefect may tell all.
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "INFO",
    }
    command = ["-P", "-m", "prefect", "worker", "start", "--pool", pool, "--type", "process"]
    log = root / ".instar" / "logs" / "worker.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as file:
        leash = Leash([sys.executable, *command], root, environment, stdout=file, stderr=file)
    with leash:
        while True:
            try:
                return leash.wait(timeout=2.0)
            except subprocess.TimeoutExpired:
                server.check()


def ensure_pool(client: SyncPrefectClient, pool: str) -> None:
    """Create the process work pool if there is none."""
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
    from prefect.workers.process import ProcessWorker

    try:
        client.read_work_pool(pool)
    except ObjectNotFound:
        wanted = WorkPoolCreate(
            name=pool,
            type="process",
            base_job_template=ProcessWorker.get_default_base_job_template(),
        )
        try:
            client.create_work_pool(wanted)
        except ObjectAlreadyExists:
            return  # another command was faster


def _unfit_schedules(client: SyncPrefectClient, pool: str) -> list[str]:
    """What is wrong with the cron lines on this pool that came by another way than `instar`."""
    from prefect.client.schemas.filters import WorkPoolFilter, WorkPoolFilterName

    found = []
    named = WorkPoolFilter(name=WorkPoolFilterName(any_=[pool]))
    for deployment in client.read_deployments(work_pool_filter=named):
        for schedule in deployment.schedules:
            cron = getattr(schedule.schedule, "cron", None)
            try:
                if cron is not None and schedule.active:
                    read_cron(cron)
            except TaskError as problem:
                found.append(f"deployment {deployment.name}: {problem}")
    return found


def _drop_missed_runs(client: SyncPrefectClient, pool: str) -> None:
    """Of the runs that fell due while no worker ran, keep the newest of each deployment.

    A week without a worker would otherwise be followed by seven equal retrainings.
    """
    from prefect.client.schemas.filters import (
        FlowRunFilter,
        FlowRunFilterExpectedStartTime,
        FlowRunFilterState,
        FlowRunFilterStateType,
        WorkPoolFilter,
        WorkPoolFilterName,
    )
    from prefect.client.schemas.objects import State, StateType
    from prefect.states import Cancelled

    now = datetime.now(UTC)
    due = client.read_flow_runs(
        flow_run_filter=FlowRunFilter(
            state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED])),
            expected_start_time=FlowRunFilterExpectedStartTime.model_validate({"before_": now}),
        ),
        work_pool_filter=WorkPoolFilter(name=WorkPoolFilterName(any_=[pool])),
    )
    kept = set()
    for run in sorted(due, key=lambda run: run.expected_start_time or now, reverse=True):
        if run.deployment_id in kept and run.auto_scheduled:
            missed: State[None] = Cancelled(
                message="Missed while no worker ran; a later run takes its place."
            )
            client.set_flow_run_state(run.id, missed, force=True)
        kept.add(run.deployment_id)
