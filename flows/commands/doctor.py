"""`instar doctor`: checks of the installation and of Prefect, and what runs left behind."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

from rich.console import Console

from flows.orchestration.servers import prefect_environment, running_server, trouble_at
from tasks.operations.check import Check
from tasks.operations.health_checks import check_all
from tasks.operations.unfinished_runs import leftovers
from tasks.system.proxies import by_proxy
from tasks.system.redaction import shown


def examine(root: Path) -> dict[str, Any]:
    """All checks and leftovers, as plain JSON; runs that were killed are marked in Prefect."""
    prefect, marked = _check_prefect(root)
    checks = [*check_all(root), prefect]
    return {
        "well": all(check.well for check in checks),
        "checks": [dataclasses.asdict(check) for check in checks],
        "left": [dataclasses.asdict(left) for left in leftovers(root)],
        "marked_as_crashed": marked,
    }


def show(result: dict[str, Any], console: Console) -> None:
    """Print what `examine` found."""

    def say(line: str) -> None:
        console.print(line, markup=False, highlight=False, soft_wrap=True)

    for check in result["checks"]:
        say(f"{'ok   ' if check['well'] else 'WRONG'} {check['name']}: {check['found']}")
        if check["remedy"]:
            say(f"      → {check['remedy']}")
    for left in result["left"]:
        remedy = f" → {left['remedy']}" if left["remedy"] else ""
        say(f"{left['kind']}: {left['what']}{remedy}")
    for run in result["marked_as_crashed"]:
        say(f"marked in Prefect as crashed: run {run}")


def _check_prefect(root: Path) -> tuple[Check, list[str]]:
    """Prefect's server, if there is one to ask; with the runs that were marked there."""
    configured = os.environ.get("PREFECT_API_URL")
    url = configured or running_server(root)
    if url is None:
        return Check("Prefect", True, "no server runs; a command that needs one starts it"), []
    if trouble := trouble_at(f"{url.rstrip('/')}/health"):
        found = f"does not answer at {shown(url)}{by_proxy(url)} ({trouble.said})"
        remedy = "start it, or unset PREFECT_API_URL: a command then starts its own"
        if not configured:
            remedy = "wait, if a command has just started it; else see .instar/logs"
        return Check("Prefect", False, found, remedy), []
    os.environ.update(prefect_environment(root))
    os.environ["PREFECT_API_URL"] = url
    from flows.orchestration.crashed_runs import mark_dead_runs

    try:
        return Check("Prefect", True, f"answers at {url}"), mark_dead_runs(root)
    except Exception as error:
        remedy = "correct PREFECT_API_KEY or PREFECT_API_URL"
        return Check("Prefect", False, f"does not list runs at {url} ({error})", remedy), []
