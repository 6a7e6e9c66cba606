"""How `instar models`, `promote`, `rollback` and `history` look on the terminal."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from rich.console import Console

from flows.commands.tables import Column, show_table
from tasks.registry.aliases import STAGES

_COLUMNS = (
    Column("version", right=True),
    Column("stage"),
    Column("accuracy"),
    Column("gain"),
    Column("gate"),
    Column("age", right=True, spare=True),
    Column("moved by", fold=True, spare=True),
)
_WORDS: dict[str | None, str] = {None: "–", **{str(at): stage for at, stage in STAGES.items()}}


def act(
    root: Path, reference: str, to: str | None, approve: bool | None, reason: str, override: bool
) -> dict[str, Any]:
    """Do what `instar promote` was asked for, as plain JSON."""
    from flows.orchestration.approval import resume
    from tasks.promotion.approval import decide
    from tasks.promotion.decisions import promote

    if to is not None:
        done = promote(root, reference, to, reason, override)
    else:
        assert approve is not None, "one of the two was given"
        done = decide(root, reference, approve, reason)
    resumed = done.flow_run is not None and resume(
        root, done.flow_run, approve is not False, reason
    )
    return {**dataclasses.asdict(done), "resumed": resumed}


def told(done: dict[str, Any]) -> str:
    """A decision in plain words."""
    made = f"{done['name']} version {done['version']}"
    reasons = "".join(f"\n  · {reason}" for reason in done["reasons"])
    if done["outcome"] == "refused":
        return (
            f"Refused (exit status 3): {made} stays in {done['stage']}. The gate says:{reasons}\n"
            f"Next: instar promote {done['name']}@{done['version']} --to Production --override "
            "--reason …   (against the gate; the log keeps it)"
        )
    if done["outcome"] == "unchanged":
        return f"{made} is in {done['stage']} already."
    if done["outcome"] == "rejected":
        return f"Rejected: {made} is in {done['stage']}, and the gate will not promote it again."
    replaced = f", in place of version {done['replaced']}" if done["replaced"] else ""
    resumed = "\nThe flow run that waited goes on." if done.get("resumed") else ""
    return f"{made} is in {done['stage']} now{replaced}.{reasons}{resumed}"


def show_models(result: dict[str, Any], console: Console) -> None:
    """Print `tasks.promotion.history.versions`."""
    rows = [
        [
            version["version"],
            "\n".join([_stage(version), *(f"@{alias}" for alias in version["aliases"])]),
            _interval(version["accuracy"], ""),
            _interval(version["gain"], "+"),
            _gate(version),
            _age(version["age_seconds"]),
            version["moved_by"] or "–",
        ]
        for version in result["versions"]
    ]
    show_table(console, result["model"], _COLUMNS, rows)
    if apart := _tested_apart(result["versions"]):
        console.print(apart, markup=False, highlight=False, soft_wrap=True)
    waiting = [v["version"] for v in result["versions"] if v["gate"] == "waiting"]
    for number in waiting:
        from flows.orchestration.approval import command_of

        reference = f"{result['model']}@{number}"
        console.print(f"Waits: {command_of(reference)}", highlight=False, soft_wrap=True)


def _tested_apart(versions: list[dict[str, Any]]) -> str | None:
    """Which accuracies cannot be compared, as they are of different test sets; None if all can."""
    sets: dict[str, list[str]] = {}
    for version in versions:
        if version["accuracy"] and version.get("test_set"):
            sets.setdefault(version["test_set"], []).append(version["version"])
    if len(sets) < 2:
        return None
    groups = " | ".join(", ".join(numbers) for numbers in sets.values())
    return f"Only accuracies of the same test set can be compared: versions {groups}."


def show_history(result: dict[str, Any], console: Console) -> None:
    """Print `tasks.promotion.history.history`."""

    def say(line: str) -> None:
        console.print(line, markup=False, highlight=False, soft_wrap=True)

    if "moves" not in result:
        same = result["from"] == result["to"]
        when = result["from"] if same else f"{result['from']} to {result['to']}"
        say(f"{result['model']}, {when}")
        for stage in ("Production", "Staging"):
            for held in result[stage] or [None]:
                say(f"{stage + ':':12}{_held(held)}")
        return
    stood: dict[str, str] = {}
    for move in result["moves"]:
        # A line names no place that it left if that was the archive.
        start = _WORDS[move["from"] or stood.get(move["version"])]
        end = _WORDS[move["to"]]
        stood[move["version"]] = move["to"]
        say(f"{move['time']}  version {move['version']}: {start} → {end}")
        say(f"    by {move['who']}: {move['why']}")
        if known := {key: value for key, value in move["evidence"].items() if value is not None}:
            say(f"    evidence: {', '.join(f'{key} {_plain(v)}' for key, v in known.items())}")


def _held(held: dict[str, Any] | None) -> str:
    if held is None:
        return "nothing"
    until = f" until {held['until']}" if held["until"] else ""
    return f"version {held['version']} (since {held['since']}{until})"


def _plain(value: Any) -> str:
    if isinstance(value, dict) and "mean" in value:
        shown = {key: value.get(key) for key in ("mean", "low", "high")}
        return _interval(shown, "+").replace("\n", " ") + " points"
    return str(value)


def _interval(value: dict[str, float | None] | None, sign: str) -> str:
    if value is None or value["mean"] is None:
        return "–"
    mean, low, high = (
        None if value[key] is None else f"{100 * value[key]:{sign}.2f}"  # type: ignore[operator]
        for key in ("mean", "low", "high")
    )
    return f"{mean}\n({low}…{high})" if low and high else str(mean)


def _stage(version: dict[str, Any]) -> str:
    return "–" if version["stage"] == "None" else str(version["stage"])


def _gate(version: dict[str, Any]) -> str:
    said = version["gate"] or "–"
    if version["rejected"]:
        return f"{said},\nrejected"
    against = version["gate_champion"]
    return f"{said}\nagainst {against}" if against else said


def _age(seconds: int) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length} {unit}"
    return f"{seconds} s"
