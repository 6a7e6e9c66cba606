"""What `instar compare` does behind its options, and how it ends on the terminal."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console

from data.errors import DataError
from data.packing.census import count_listed
from flows.commands.tables import Column, open_console, show_table
from flows.orchestration.servers import PrefectServer
from tasks.comparison.grid import METHOD, Cell, fitting_at_once, grid
from tasks.errors import TaskError
from tasks.execution.preflight import find_data_at_home, new_run_id, require_project
from tasks.execution.workspace import isolated
from tasks.settings.editing import change_settings, known_presets
from tasks.settings.fitness import at, require_fitting
from tasks.settings.loading import load_params
from tasks.settings.schema import Params
from tasks.system.unattended import git
from tasks.versioning.dvc_remote import fetch, restore


def compare_here(
    root: Path,
    methods: str | None,
    vary: Sequence[str],
    seeds: int,
    assignments: Sequence[str],
    at_once: int | None,
    quiet: bool,
) -> dict[str, Any]:
    """Compare settings on HEAD; see `instar compare`.

    Returns:
        What `show` shows.

    Raises:
        TaskError: A cell's settings are not valid, or Prefect's server went away.
    """
    console = open_console(stderr=quiet)
    vary = [*([f"{METHOD}={methods}"] if methods else []), *vary]
    cells = grid(vary, seeds, assignments, known_presets(root))
    require_project(root)
    name = new_run_id()
    params = _require_valid(root, name, cells)
    if edited := git(root, "diff", "--name-only", "HEAD"):
        said = f"note: on HEAD, so without what you edited: {', '.join(edited.split())}"
        console.print(said, soft_wrap=True, markup=False, highlight=False)
    if at_once is None:
        cores = len(os.sched_getaffinity(0))
        at_once = fitting_at_once(params, cores, psutil.virtual_memory().available)
    console.print(f"[bold]Comparison {name}[/]: {len(cells)} cells, {at_once} at once")
    with PrefectServer(root) as server:
        # Prefect reads its settings at import: not before the server's address is known.
        from flows.compare import compare_flow

        server.wait()
        return _run_flow(
            lambda: compare_flow(name, at_once)(str(root), name, vary, seeds, assignments, at_once),
            server,
            console,
        )


def show(result: dict[str, Any], console: Console) -> None:
    """Print the leaderboard and what it says."""
    console.print()
    _show_table(result, console)
    console.print(result["verdict"], highlight=False, markup=False)
    for cell in result["cells"]:
        if cell["reason"] is not None:
            said = f"  · {cell['name']} failed: {cell['reason']}"
            console.print(said, markup=False, highlight=False, soft_wrap=True)
    if result["not_recorded"]:
        console.print(f"Not in MLflow: {result['not_recorded']}", markup=False, highlight=False)
    else:
        where = result["page"] or "`instar ui`"
        said = f"In MLflow: run `compare {result['comparison']}` ({where})"
        console.print(said, markup=False, highlight=False, soft_wrap=True)
    if any(cell["experiment"] for cell in result["cells"]):
        console.print("Next: dvc exp show   (each cell; `dvc exp apply NAME` takes its settings)")


def _require_valid(root: Path, name: str, cells: Sequence[Cell]) -> list[Params]:
    """The settings of every cell; HEAD's results are fetched by the way.

    Raises:
        TaskError: Those of one are not valid, or those of none fit the data.
    """
    found = []
    with isolated(root, f"{name}-check") as place:
        pristine = (place / "params.yaml").read_bytes()
        for cell in cells:
            change_settings(place, cell.assignments, cell.presets)
            found.append(load_params(place / "params.yaml"))
            find_data_at_home(place, root)
            (place / "params.yaml").write_bytes(pristine)
        fetch(place)
        _require_one_that_fits(place, found)
    return found


def _require_one_that_fits(place: Path, params: Sequence[Params]) -> None:
    """Refuse a comparison of which no cell can be computed; one that cannot fails by itself."""
    problem: TaskError | DataError | None = None
    for one in params:
        try:
            restore(one.data.path, place)
            require_fitting(one, count_listed(at(place, one.data)))
            return
        except (TaskError, DataError) as error:
            problem = problem or error
    if problem is not None:
        raise problem


def _run_flow(run: Any, server: PrefectServer, console: Console) -> dict[str, Any]:
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    teller = _Teller(console)
    logger = logging.getLogger("prefect.flow_runs")
    logger.addHandler(teller)
    try:
        result: dict[str, Any] = run()
        return result
    except TaskError:
        raise
    except Exception:
        if server.answers():
            raise
        PrefectServer.lost = True
        raise TaskError(
            "Prefect's server went away during the comparison. Cells that were done are kept: the "
            "same command finds them in DVC's cache."
        ) from None
    finally:
        logger.removeHandler(teller)
        # Before our own server stops: what is still on its way would only raise noise.
        APILogWorker.drain_all(timeout=5)
        EventsWorker.drain_all(timeout=5)


class _Teller(logging.Handler):
    """Shows on the terminal what the flow logs."""

    def __init__(self, console: Console):
        super().__init__(logging.INFO)
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        if record.module == "compare":  # not what Prefect says of every flow
            said = f"  {record.getMessage()}"
            self._console.print(said, markup=False, highlight=False, soft_wrap=True)


def _show_table(result: dict[str, Any], console: Console) -> None:
    numbers = ("pretrained", "scratch", "gain", "behind", "seconds")
    columns = [Column("place"), Column("variant", fold=True)]
    columns += [Column(name, right=True, spare=name == "seconds") for name in numbers]
    rows = []
    for place, row in enumerate(result["leaderboard"], 1):
        done = f"{len(row['seeds'])} of {len(row['seeds']) + len(row['failed'])} seeds"
        rows.append(
            [
                "best" if place == 1 and row["pretrained"] else str(place),
                f"{row['variant']}\n{done}" if row["failed"] else row["variant"],
                _shown(row["pretrained"], ""),
                "–" if row["scratch"] is None else f"{100 * row['scratch']['mean']:.2f}",
                _shown(row["gain"], "+"),
                _shown(row["behind"], "+"),
                "–" if row["seconds"] is None else f"{row['seconds']:.0f}",
            ]
        )
    show_table(
        console,
        "Leaderboard: accuracy on the test set, in percent",
        columns,
        rows,
        f"In parentheses: 95% intervals over test images and {result['over']}.",
    )


def _shown(value: dict[str, Any] | None, sign: str) -> str:
    """The mean, and beneath it the interval, so that all fits a terminal."""
    if value is None:
        return "–"
    mean, low, high = (value[key] for key in ("mean", "low", "high"))
    if low is None:
        return f"{100 * mean:{sign}.2f}"
    return f"{100 * mean:{sign}.2f}\n({100 * low:{sign}.1f}…{100 * high:{sign}.1f})"
