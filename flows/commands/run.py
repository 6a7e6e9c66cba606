"""What the `instar` command does in the checkout it stands in, behind its options."""

from __future__ import annotations

import sys
import threading
import time
import webbrowser
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from rich.console import Console

from flows.commands.tables import open_console
from flows.orchestration.crashed_runs import mark_dead_runs
from flows.orchestration.servers import PREFECT_PORT, PrefectServer, start_mlflow_ui, wait_for
from tasks.errors import TaskError
from tasks.execution.preflight import new_run_id
from tasks.execution.retraining_run import Retraining, require_ready
from tasks.execution.workspace import locked
from tasks.settings.editing import change_settings
from tasks.settings.project_files import require_merged
from tasks.system.redaction import shown
from tasks.system.url_paths import require_place
from tasks.tracking.client import tracking_uri_of
from tasks.versioning.dvc_remote import require_dvc


def run_here(
    root: Path, assignments: Sequence[str], presets: Sequence[str], wait: bool, quiet: bool
) -> dict[str, Any]:
    """Retrain in the checkout itself; see `instar run`.

    Prefect's server needs many seconds for its first start, so the first stage goes ahead
    meanwhile: the flow finds it done.

    Returns:
        What the summary shows.
    """
    console = open_console(stderr=quiet)
    with locked(root, wait=wait, what="instar run"):
        for change in change_settings(root, assignments, presets):
            console.print(change, highlight=False, markup=False)
        require_ready(root)
        require_merged(root)
        run_id = new_run_id()
        console.print(f"[bold]Run {run_id}[/]", highlight=False)
        with PrefectServer(root) as server:
            _import_in_background("flows.retrain")
            with Retraining(root, root, run_id, _teller(console)) as run:
                run.fetch()
                run.stage("prepare")
                server.wait()
                return _run_flow(run, root, server)


def show_uis(root: Path, browser: bool) -> None:
    """Keep MLflow's and Prefect's UIs open until interrupted.

    Raises:
        TaskError: `root` is not a project, so there is nothing to show; or its path is unfit.
    """
    require_place(root)
    require_dvc(root)
    store = tracking_uri_of(root)
    with ExitStack() as stack:
        server = stack.enter_context(PrefectServer(root, PREFECT_PORT))
        if store.startswith(("http://", "https://")):
            mlflow, address = None, store
        else:
            mlflow, address = start_mlflow_ui(root, store)
            stack.enter_context(mlflow)
            wait_for(mlflow, f"{address}/health", "MLflow", root / ".instar/logs/mlflow-ui.log")
            # Else it opens on its pages for language models.
            address = f"{address}/#/experiments?workflowType=machine_learning"
        server.wait()
        with suppress(Exception):  # its pages open, tidy or not
            mark_dead_runs(root)
        print(f"MLflow:  {shown(address)}\nPrefect: {server.ui}\nOpen until Ctrl-C.", flush=True)
        if browser:
            for page in (address, server.ui):
                webbrowser.open(page)
        try:
            while mlflow is None or mlflow.alive():
                server.check()
                time.sleep(1.0)
        except KeyboardInterrupt:
            return
    print("MLflow's UI ended: see .instar/logs/mlflow-ui.log", file=sys.stderr)


def _run_flow(run: Retraining, root: Path, server: PrefectServer) -> dict[str, Any]:
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    from flows.retrain import flow_in_checkout

    try:
        return flow_in_checkout(run)(str(root), run.run_id)
    except TaskError:
        raise
    except Exception as error:
        if server.answers():
            raise
        PrefectServer.lost = True
        return _outcome_without_prefect(run, error)
    finally:
        # Before our own server stops: what is still on its way would only raise noise.
        APILogWorker.drain_all(timeout=5)
        EventsWorker.drain_all(timeout=5)


def _outcome_without_prefect(run: Retraining, error: Exception) -> dict[str, Any]:
    """What the run came to, although Prefect's server went away under it."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, TaskError):
            raise cause
        cause = cause.__context__
    if not run.judged:
        raise TaskError(
            "Prefect's server went away during the run. What was computed is kept: `instar run` "
            "again goes on from there."
        ) from None
    run.note("Prefect's server went away during the run; its page there stays unfinished")
    return run.result()


def _teller(console: Console) -> Any:
    def tell(line: str) -> None:
        console.print(f"  {line}", highlight=False, markup=False, soft_wrap=True)

    return tell


def _import_in_background(module: str) -> None:
    """Prefect takes seconds to import; the first stage runs in a process of its own meanwhile."""
    import importlib

    threading.Thread(target=importlib.import_module, args=(module,), daemon=True).start()
