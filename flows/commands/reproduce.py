"""`instar reproduce`: a version made again before one's eyes, and what came of it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from rich.console import Console

from flows.commands.tables import Column, open_console, show_table
from tasks.reproduction.reproduce import reproduce
from tasks.reproduction.result import TOLERANCE
from tasks.versioning.dvc_remote import require_dvc

_TOLD = 5
_VERDICTS = {
    "identical": "identical: every file and every number is the version's own.",
    "within tolerance": (
        f"within tolerance: every number is within {TOLERANCE} of the version's (of its size, "
        "above 1), which is what is promised on another machine, torch or dependency lock."
    ),
    "differs": "differs.",
}


def reproduce_here(
    root: Path, version: str, start: str | None, keep: Path | None, record: bool, quiet: bool
) -> dict[str, Any]:
    """Reproduce a version and say how far it is; the result as plain JSON, see `show`."""
    require_dvc(root)
    console = open_console(stderr=quiet)
    console.print(f"[bold]Reproducing {version}[/]", highlight=False)

    def tell(line: str) -> None:
        console.print(f"  {line}", highlight=False, markup=False, soft_wrap=True)

    done = reproduce(version, root, tell, start, keep=keep, record=record)
    return {**dataclasses.asdict(done), "first": done.first and dataclasses.asdict(done.first)}


def show(result: dict[str, Any], console: Console) -> None:
    """Print what came of it."""
    name = f"{result['name']} version {result['version']} ({result['tag']})"
    console.print()
    _show_table(result, console)
    for note in result["notes"]:
        console.print(f"  · {note}", markup=False, highlight=False, soft_wrap=True)
    if result["before"] != result["now"]:
        console.print(f"  · then {_machine(result['before'])}; now {_machine(result['now'])}")
    verdict = _VERDICTS[result["verdict"]]
    console.print(f"{name}: {verdict}", markup=False, highlight=False, soft_wrap=True)
    for difference in result["differences"][:_TOLD]:
        console.print(f"  {_in_words(difference)}", markup=False, highlight=False, soft_wrap=True)
    if (more := len(result["differences"]) - _TOLD) > 0:
        console.print(f"  and {more} more (`--json` lists them)", highlight=False)
    if result["recorded"]:
        console.print("Recorded on the version, in its tags `reproduced…`.", highlight=False)
    if result["clone"]:
        console.print(f"The clone is kept: {result['clone']}", soft_wrap=True, markup=False)


def _show_table(result: dict[str, Any], console: Console) -> None:
    names = ("seconds", "files that differ", "numbers that differ")
    rows = []
    for stage in result["stages"]:
        own = [found["kind"] for found in result["differences"] if found["stage"] == stage]
        seconds = f"{result['seconds'][stage]:.0f}"
        rows.append([stage, seconds, str(own.count("file")), str(own.count("metric"))])
    columns = [Column("stage"), *(Column(name, right=True) for name in names)]
    compared = f"{result['files']} files and {result['metrics']} numbers compared"
    show_table(console, "What was computed again", columns, rows, compared)


def _in_words(difference: dict[str, Any]) -> str:
    before, now = (
        "nothing" if value is None else f"{value:.6g}" if isinstance(value, float) else value
        for value in (difference["before"], difference["now"])
    )
    return f"{difference['stage']}: {difference['kind']} {difference['name']}: {before} → {now}"


def _machine(told: dict[str, str]) -> str:
    return f"{told['device'] or 'not recorded'}, torch {told['torch'] or 'not recorded'}"
