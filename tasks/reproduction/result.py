"""What came of a reproduction, and how it is recorded."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from typing import Literal

from tasks.errors import TaskError
from tasks.tracking.client import explained

# On another machine, torch or dependency lock: of one up to one, relative beyond.
TOLERANCE = 0.02
# Files hold six digits of what MLflow has whole.
ROUNDING = 1e-6

Verdict = Literal["identical", "within tolerance", "differs"]


@dataclass(frozen=True)
class Difference:
    """One thing that came out otherwise.

    Attributes:
        stage: Whose it is.
        kind: A file, or a number in MLflow.
        name: Which.
        before: The md5 or the number of the version; None if it had none.
        now: What came out.
    """

    stage: str
    kind: Literal["file", "metric"]
    name: str
    before: str | float | None
    now: str | float | None


@dataclass(frozen=True)
class Reproduction:
    """What came of it.

    Attributes:
        name: The registered model.
        version: Its number.
        tag: The git tag that was cloned.
        commit: What that names.
        verdict: 'within tolerance' is possible only where machine, torch or lock are others, and
            MLflow has the numbers of all stages.
        stages: Those that were computed, in order.
        seconds: Wall-clock time of each.
        files: How many files were compared.
        metrics: How many numbers were.
        differences: In the order of the stages, files before numbers.
        before: What the version was learned on.
        now: What it was reproduced on.
        notes: Where the inputs came from, and what could not be compared.
        recorded: Whether the version's tags record it.
        clone: Where the clone was kept, if it was.
    """

    name: str
    version: str
    tag: str
    commit: str
    verdict: Verdict
    stages: list[str]
    seconds: dict[str, float]
    files: int
    metrics: int
    differences: list[Difference]
    before: dict[str, str]
    now: dict[str, str]
    notes: list[str]
    recorded: bool
    clone: str | None

    @property
    def first(self) -> Difference | None:
        """The first that differs."""
        return next(iter(self.differences), None)


def verdict_of(differences: list[Difference], tolerant: bool) -> Verdict:
    """What the differences come to; only a tolerant one lets close metrics pass."""
    if not differences:
        return "identical"
    metrics = [d for d in differences if d.kind == "metric"]
    close = all(close_to(float(d.before or 0), float(d.now or 0), TOLERANCE) for d in metrics)
    return "within tolerance" if close and tolerant else "differs"


def close_to(before: float, now: float, tolerance: float) -> bool:
    """Whether two numbers are equal within a tolerance, relative above 1."""
    if math.isnan(before) and math.isnan(now):
        return True
    return abs(before - now) <= tolerance * max(1.0, abs(before))


def record_on_version(done: Reproduction, uri: str) -> Reproduction:
    """Writes it on the version; what took hours is reported even if MLflow is away by now."""
    try:
        with explained(uri) as client:
            for name, value in _tags(done).items():
                client.set_model_version_tag(done.name, done.version, name, value)
    except TaskError as problem:
        return replace(done, notes=[*done.notes, f"not recorded on the version: {problem}"])
    return replace(done, recorded=True)


def _tags(done: Reproduction) -> dict[str, str]:
    """The tags of the version that record it."""
    first = done.first
    return {
        "reproduced": done.verdict,
        "reproduced_scope": ", ".join(done.stages),
        "reproduced_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "reproduced_on": f"{done.now['device']}, torch {done.now['torch']}",
        # Empty rather than left: an earlier trial's would stay.
        "reproduced_difference": f"{first.stage}: {first.name}" if first else "",
    }
