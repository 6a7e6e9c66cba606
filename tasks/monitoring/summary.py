"""What a look at the data found, in words and tables: for the terminal and for Prefect's page."""

from __future__ import annotations

from typing import Any

from data.sources.file_names import printable
from tasks.monitoring.data_watch import Items, Report
from tasks.monitoring.drift import Drift


def sentence(report: Report) -> str:
    """Whether the data changed, in one sentence."""
    where = f"{report.path} ({report.items:,} items)"
    if report.since is None:
        return f"{where}: no run is registered yet, so all of it is new"
    if not report.changed:
        return f"{where}: nothing changed since {report.since}"
    if report.new is None:
        return (
            f"{where}: changed since {report.since}; what that run read is no longer in DVC's "
            "cache, so which items is unknown"
        )
    counts = ", ".join(f"{items.count:,} {kind}" for kind, items in kinds(report).items())
    return f"{where}: changed since {report.since}: {counts}"


def verdict(report: Report) -> str:
    """What the drift test says, in words."""
    drift = report.drift
    if drift is None:
        return f"Drift: not measured, as {report.not_measured}"
    unread = f" {drift.unreadable:,} more could not be read." if drift.unreadable else ""
    compared = (
        f"{drift.new:,} new images against {drift.training:,} that {drift.against} learned from"
    )
    said = f"p = {drift.p:.4g}, alpha = {drift.alpha:g}, {compared}.{unread}"
    if drift.drifted:
        return f"Drift: YES, seen in {_seen_in(drift)}. {said}"
    return f"Drift: none seen. {said}"


def markdown(report: Report) -> str:
    """The report for a page."""
    lines = [f"# {sentence(report)}", "", verdict(report), ""]
    if report.new is not None:
        lines += ["| | items | the first ones |", "|---|---|---|"]
        for kind, items in kinds(report).items():
            lines.append(f"| {kind} | {items.count:,} | {first(items).replace('|', '&#124;')} |")
    return "\n".join(lines) + "\n"


def rows(drift: Drift) -> list[dict[str, Any]]:
    """A row for each measure."""
    return [
        {"measure": each.name, "effect": round(each.effect, 4), "p": round(each.p, 5)}
        for each in drift.statistics
    ]


def kinds(report: Report) -> dict[str, Items]:
    """The items by what became of them, where that is known."""
    found = {"new": report.new, "removed": report.removed, "changed": report.altered}
    return {kind: items for kind, items in found.items() if items is not None}


def first(items: Items) -> str:
    """The first names; they may hold anything."""
    more = ", …" if items.count > len(items.first) else ""
    return ", ".join(map(printable, items.first)) + more


def _seen_in(drift: Drift) -> str:
    """The measures that show it; the nearest to it if only all together do."""
    lowest = min(each.p for each in drift.statistics)
    limit = max(lowest, drift.alpha)
    return ", ".join(each.name for each in drift.statistics if each.p <= limit)
