"""The flow `compare`: the cells of a grid, each in a worktree of HEAD, then their leaderboard.

It computes nothing itself: DVC runs the stages of a cell or finds them in its cache, which all
cells share. Nothing is registered, and the checkout is not touched.
"""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from prefect import Flow, flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE

from flows.orchestration.crashed_runs import sign_of_life
from tasks.comparison.grid import (
    Cell,
    CellResult,
    computed_seconds,
    grid,
    keep_evidence,
    save_experiment,
)
from tasks.comparison.leaderboard import Standing, leaderboard, repeated, rows, verdict
from tasks.comparison.mlflow_record import record
from tasks.errors import TaskError, explain
from tasks.execution.preflight import find_data_at_home
from tasks.execution.stage_runner import run_stage
from tasks.execution.workspace import isolated
from tasks.layout import STAGES
from tasks.reporting.understood import read_understood
from tasks.settings.editing import change_settings, known_presets
from tasks.settings.fitness import require_fitting_here
from tasks.settings.loading import load_params
from tasks.system.locks import held
from tasks.tracking.client import tracking_uri_of
from tasks.tracking.runs import run_page
from tasks.versioning.dvc_remote import restore
from tasks.versioning.git import require_git


def compare_flow(name: str, at_once: int) -> Flow[..., dict[str, Any]]:
    """The flow, named as the comparison, with as many cells at once.

    Several run in processes of a Dask cluster on loopback, which ends with the flow.
    """
    if at_once == 1:
        return compare.with_options(flow_run_name=name)
    from prefect_dask import DaskTaskRunner

    cluster = {
        "n_workers": at_once,
        "threads_per_worker": 1,
        "host": "127.0.0.1",
        "dashboard_address": None,
        # What takes memory is not the worker but the stages that it starts.
        "memory_limit": None,
    }
    runner: Any = DaskTaskRunner(cluster_kwargs=cluster)
    return compare.with_options(flow_run_name=name, task_runner=runner)


@flow(name="compare", validate_parameters=False)
def compare(
    root: str,
    name: str,
    vary: Sequence[str] = (),
    seeds: int = 3,
    settings: Sequence[str] = (),
    at_once: int = 1,
) -> dict[str, Any]:
    """Compute all cells and rank their variants.

    Args:
        root: The checkout.
        name: Of this comparison.
        vary: Each `group.key=value,value`.
        seeds: How many each variant gets.
        settings: `group.key=value` that all cells share.
        at_once: How many cells run side by side; more than one needs a runner of `compare_flow`.

    Returns:
        What `flows.commands.compare` shows, as plain JSON.
    """
    home = Path(root).resolve()
    cells = grid(vary, seeds, settings, known_presets(home))
    results: list[CellResult] = []
    with sign_of_life(home) as folder:
        for result in _computed(home, name, cells, folder, at_once):
            # Cells that share their data say it once.
            for line in () if any(result.data == r.data for r in results) else result.data:
                get_run_logger().info("%s", line)
            results.append(result)
            get_run_logger().info("%d of %d: %s", len(results), len(cells), in_words(result))
            for note in result.notes:
                get_run_logger().info("note: %s", note)
        standings = leaderboard(results)
        answer = _answer(name, require_git(home), results, standings)
        answer.update(_recorded(name, home, results, standings))
    with contextlib.suppress(Exception):  # the comparison is done, shown or not
        _show_on_page(answer, standings)
    return answer


def in_words(result: CellResult) -> str:
    """How a cell went, in a line."""
    if result.reason is not None:
        return f"{result.cell.name} failed: {result.reason}"
    ran = [stage for stage, status in result.stages.items() if status == "ran"]
    return f"{result.cell.name} {'ran ' + ', '.join(ran) if ran else 'was in the cache'}"


def _computed(
    home: Path, name: str, cells: Sequence[Cell], folder: Path, at_once: int
) -> Iterator[CellResult]:
    """The results in the order of the cells; one that fails costs no other."""

    def arguments(place: int, cell: Cell) -> tuple[str, str, Cell, str]:
        return str(home), f"{name}-{place}", cell, str(folder / str(place))

    if at_once == 1:
        # In this thread, so that Ctrl-C reaches the stage.
        for place, cell in enumerate(cells):
            state = _cell(cell)(*arguments(place, cell), return_state=True)
            yield _result(cell, state.result(raise_on_failure=False))
        return
    futures = [
        _cell(cell).submit(*arguments(place, cell), quiet=True) for place, cell in enumerate(cells)
    ]
    for cell, future in zip(cells, futures, strict=True):
        try:
            outcome = future.result(raise_on_failure=False)
        except Exception as error:  # its worker died
            outcome = error
        yield _result(cell, outcome)


def _cell(cell: Cell) -> Any:
    return run_cell.with_options(task_run_name=cell.name)


@task(cache_policy=NO_CACHE, persist_result=False)
def run_cell(home: str, run_id: str, cell: Cell, folder: str, quiet: bool = False) -> CellResult:
    """Compute a cell in a worktree of its own and save it as a DVC experiment.

    Args:
        home: The checkout.
        run_id: Names the worktree.
        cell: What to compute.
        folder: Where to leave its evidence.
        quiet: Draw no progress bars, as others would be drawn over them.
    """
    aside = contextlib.redirect_stderr(io.StringIO()) if quiet else contextlib.nullcontext()
    with aside, isolated(Path(home), run_id) as place:
        change_settings(place, cell.assignments, cell.presets)
        find_data_at_home(place, Path(home))
        restore(load_params(place / "params.yaml").data.path, place)
        require_fitting_here(place)
        outcomes = [run_stage(stage, place, on_wait=partial(_say_wait, stage)) for stage in STAGES]
        with held(place / ".instar" / "locks" / "dvc-exp.lock", "save", wait=True):
            complaint = save_experiment(place, cell.name)
        return CellResult(
            cell,
            None,
            {outcome.stage: outcome.status for outcome in outcomes},
            computed_seconds(place, {outcome.stage: outcome.key for outcome in outcomes}),
            keep_evidence(place, Path(folder)),
            None if complaint else cell.name,
            (f"not saved as a DVC experiment: {complaint}",) if complaint else (),
            tuple(read_understood(place)),
        )


def _say_wait(stage: str, holder: str) -> None:
    # The true stderr, as that of a cell beside others is set aside.
    print(f"{stage}: waiting for the same computation ({holder})", file=sys.__stderr__, flush=True)


def _result(cell: Cell, outcome: Any) -> CellResult:
    if isinstance(outcome, CellResult):
        return outcome
    reason = explain(outcome) if isinstance(outcome, BaseException) else None
    return CellResult(cell, reason or f"{type(outcome).__name__}: {outcome}")


def _answer(
    name: str, commit: str, results: Sequence[CellResult], standings: Sequence[Standing]
) -> dict[str, Any]:
    return {
        "comparison": name,
        "commit": commit,
        "over": repeated(standings),
        "verdict": verdict(standings),
        "leaderboard": [{"variant": s.name, **asdict(s)} for s in standings],
        "cells": [
            {
                "name": result.cell.name,
                "settings": result.cell.varied,
                "seed": result.cell.seed,
                "reason": result.reason,
                "stages": result.stages,
                "seconds": result.seconds,
                "experiment": result.experiment,
            }
            for result in results
        ],
    }


def _recorded(
    name: str, home: Path, results: Sequence[CellResult], standings: Sequence[Standing]
) -> dict[str, Any]:
    """The run in MLflow, or why there is none: the answer is here all the same."""
    run = page = problem = None
    try:
        run = record(name, home, results, standings)
        page = run_page(tracking_uri_of(home), run)
    except TaskError as error:
        problem = str(error)
    return {"run": run, "page": page, "not_recorded": problem}


def _show_on_page(answer: dict[str, Any], standings: Sequence[Standing]) -> None:
    from prefect.artifacts import create_link_artifact, create_table_artifact

    create_table_artifact(rows(standings), key="leaderboard", description=answer["verdict"])
    if answer["page"]:
        create_link_artifact(answer["page"], link_text="The comparison in MLflow", key="mlflow")
