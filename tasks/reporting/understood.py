"""What `prepare` understood of the data, in words for a terminal."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data.sources.finding import HIDDEN, SYSTEM

SUMMARY = Path("artifacts") / "prepare" / "summary.json"
# Above this share of what was given a reader is warned.
LEFT_OUT = 0.01
# Of classes and of reasons, how many a line names.
CLASSES, REASONS = 6, 3
# What nobody means to be an image: it counts as nothing lost.
_EXPECTED = (HIDDEN, SYSTEM)


def understood(summary: Mapping[str, Any]) -> list[str]:
    """One line of all counts; then notes, and a warning where more than 1% is left out.

    Args:
        summary: The content of prepare's summary.json (`data.packing.pack.PackSummary`).
    """
    images = summary["train"] + summary["test"]
    origin = summary.get("test_from") or "split off at random"
    line = (
        f"{_count(images, 'image')} of {_classes(summary)}: {summary['train']:,} to train on, "
        f"{images - summary['unlabelled'] - summary['test']:,} of them labelled; "
        f"{summary['test']:,} to test ({origin}); "
        f"left out: {summary['quarantined']:,} quarantined{_reasons(summary['reasons'])}, "
        f"{_count(summary['duplicates'], 'duplicate')}, "
        f"{sum(summary['passed_over'].values()):,} passed over{_reasons(summary['passed_over'])}"
    )
    notes = [f"note: {note}" for note in summary.get("notes", ())]
    spoilt = [
        f"warning: {lost:,} of the {given:,} images of class {name!r} cannot be read"
        for name, (lost, given) in summary["spoilt_classes"].items()
    ]
    return [line, *notes, *_warning(summary, images), *spoilt]


def read_understood(root: Path) -> list[str]:
    """The same for a checkout whose stage `prepare` is up to date."""
    return understood(json.loads((root / SUMMARY).read_text(encoding="utf-8")))


def _warning(summary: Mapping[str, Any], images: int) -> list[str]:
    passed_over = sum(n for what, n in summary["passed_over"].items() if what not in _EXPECTED)
    lost = summary["quarantined"] + summary["duplicates"] + passed_over
    given = images + lost
    if lost <= LEFT_OUT * given:
        return []
    return [
        f"warning: {lost:,} of {given:,} files ({100 * lost / given:.3g}%) are left out; "
        "each quarantined one and each duplicate stands with its reason in "
        "artifacts/prepare/store/index.parquet and, by kind, in the report"
    ]


def _classes(summary: Mapping[str, Any]) -> str:
    names, each = summary["classes"], summary["train_per_class"]
    shown = ", ".join(names[:CLASSES]) + (", ..." if len(names) > CLASSES else "")
    least, most = min(each), max(each)
    spread = f"{least:,}" if least == most else f"{least:,} to {most:,}"
    return f"{len(names)} classes ({shown}; {spread} labelled training images each)"


def _reasons(counts: Mapping[str, int]) -> str:
    if not counts:
        return ""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    shown = ", ".join(f"{what}: {count:,}" for what, count in ordered[:REASONS])
    return f" ({shown}{', ...' if len(ordered) > REASONS else ''})"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
