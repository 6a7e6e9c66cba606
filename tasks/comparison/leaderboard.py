"""The leaderboard of a comparison: who is first, and whether that is more than noise.

Variants are compared on the same test images, seed by seed: the seeds, and with them the labels
that are drawn, are the same for all, so that their luck cancels in the differences.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tasks.comparison.grid import CellResult, short
from tasks.errors import TaskError
from tasks.evaluation.confidence_intervals import Interval, Measured, accuracy, paired_gain


@dataclass(frozen=True)
class Standing:
    """A row of the leaderboard.

    Attributes:
        varied: The variant.
        seeds: Those of its cells that are done.
        pretrained: Accuracy; None if no cell is done.
        scratch: That of the same learner from scratch.
        gain: The difference of the two.
        seconds: Mean of its cells; None if unknown.
        failed: Seed to reason.
        behind: The best one's accuracy less this one's; None for the best, and where the two have
            no seed or not the test images in common.
    """

    varied: dict[str, str]
    seeds: list[int]
    pretrained: Interval | None
    scratch: Interval | None
    gain: Interval | None
    seconds: float | None
    failed: dict[int, str]
    behind: Interval | None = None

    @property
    def name(self) -> str:
        """The variant in a few words."""
        return ", ".join(f"{short(key)}={value}" for key, value in self.varied.items()) or "as is"


# Settings that change how an image is packed, but not which image it is.
_SHAPE = ("data.size", "data.channels")


def leaderboard(results: Sequence[CellResult]) -> list[Standing]:
    """The variants, best first: those with all seeds done, then with some, then with none.

    Raises:
        TaskError: The seeds of a variant were tested on different images.
    """
    variants: dict[tuple[tuple[str, str], ...], list[CellResult]] = {}
    for result in results:
        variants.setdefault(tuple(result.cell.varied.items()), []).append(result)
    groups = [(_standing(group), _evidence(group)) for group in variants.values()]
    groups.sort(key=lambda pair: _rank(pair[0]))
    best, test = groups[0]
    board = [best]
    for standing, other in groups[1:]:
        behind = _difference(test, other) if best.pretrained and standing.pretrained else None
        board.append(replace(standing, behind=behind))
    return board


def repeated(standings: Sequence[Standing]) -> str:
    """What the intervals are over: "3 seeds", or "5 draws of labels of one seed"."""
    done = next((s for s in standings if s.pretrained), None)
    if done is None or done.pretrained is None:
        return "nothing"
    return _over(done, done.pretrained)


def _over(standing: Standing, interval: Interval) -> str:
    seeds = len(standing.seeds) + len(standing.failed)
    return f"{interval.n} {'seeds' if seeds > 1 else 'draws of labels of one seed'}"


def verdict(standings: Sequence[Standing]) -> str:
    """Which is best, and whether that is more than noise."""
    done = [standing for standing in standings if standing.pretrained]
    if not done:
        return "No cell was done, so there is nothing to compare."
    best = done[0]
    assert best.pretrained is not None, "only those that are done"
    score = f"{best.name} with {100 * best.pretrained.mean:.2f}%"
    if len(done) == 1:
        return f"Done is only {score}."
    # Of a variant further down, nobody would look for the reason in an empty column.
    apart = [one.name for one in done[2:] if one.behind is None]
    rest = f" Not comparable with it (other test images or seeds): {'; '.join(apart)}."
    return _lead(score, best, done[1:]) + (rest if apart else "")


def _lead(score: str, best: Standing, others: Sequence[Standing]) -> str:
    """How the first stands against the second."""
    second = others[0]
    behind = second.behind
    if behind is None:
        why = "they were not tested on the same images"
        if not set(best.seeds) & set(second.seeds):
            why = "no seed is done in both"
        return f"First is {score}; it cannot be held against {second.name}, as {why}."
    ahead = f"{100 * behind.mean:+.2f} points against {second.name}"
    if behind.low is None or behind.high is None:
        return f"First is {score}, {ahead}; one seed and draw are not enough to say: raise --seeds."
    interval = (
        f"95% interval {100 * behind.low:+.2f} to {100 * behind.high:+.2f} over "
        f"{_over(second, behind)}"
    )
    if behind.low > 0:
        return f"Best is {score}, {ahead} ({interval}): beyond noise."
    level = sum(1 for s in others if s.behind and s.behind.low is not None and s.behind.low <= 0)
    more = f" So are {level} variants in all." if level > 1 else ""
    return f"First is {score}, {ahead}, which is within noise ({interval}).{more}"


@dataclass(frozen=True)
class _Evidence:
    """A variant on the test images, a row for each seed (or draw, where one seed is all).

    Attributes:
        images: Id and label of each.
        digest: Of ids, labels and pixels as they were packed.
        varied: The variant.
        right: Row's name to (N,): how much of its draws is right on each image.
    """

    images: NDArray[Any]
    digest: str | None
    varied: Mapping[str, str]
    right: dict[str, dict[int, NDArray[np.float64]]]


def _evidence(group: Sequence[CellResult]) -> _Evidence | None:
    done = [result for result in group if result.evidence is not None]
    if not done:
        return None
    right: dict[str, dict[int, NDArray[np.float64]]] = {"pretrained": {}, "scratch": {}}
    found: _Evidence | None = None
    for result in done:
        assert result.evidence is not None, "only those that are done"
        table = pd.read_parquet(result.evidence / "predictions.parquet")
        metrics = json.loads((result.evidence / "metrics.json").read_text(encoding="utf-8"))
        own = _Evidence(
            table[["id", "label"]].to_numpy(), metrics.get("test_digest"), result.cell.varied, right
        )
        if found is not None and not _same_images(found, own):
            raise TaskError(
                f"the test images changed between {done[0].cell.name} and {result.cell.name}, "
                "which differ in their seed alone, so somebody changed the data in between: run "
                "the comparison again (what is still valid comes from DVC's cache)."
            )
        found = own
        for arm, rows in right.items():
            columns = [name for name in table if str(name).startswith(f"correct_{arm}_")]
            draws = table[columns].to_numpy(dtype=np.float64).T
            if len(group) == 1:
                rows.update(enumerate(draws))
            else:
                # Draws of one seed share its encoder: they are not repetitions of it.
                rows[result.cell.seed] = draws.mean(axis=0)
    return found


def _same_images(one: _Evidence, other: _Evidence) -> bool:
    """Whether both were tested on the same images, in whatever size.

    Ids are made of names alone: two sources can give the same names to different images.
    """
    if not np.array_equal(one.images, other.images):
        return False
    if one.digest == other.digest:
        return True
    shapes = [{key: varied.get(key) for key in _SHAPE} for varied in (one.varied, other.varied)]
    return shapes[0] != shapes[1] and _origin(one.varied) == _origin(other.varied)


def _origin(varied: Mapping[str, str]) -> dict[str, str]:
    """What of a variant decides which images it is tested on."""
    return {
        key: value for key, value in varied.items() if key.startswith("data.") and key not in _SHAPE
    }


def _standing(group: Sequence[CellResult]) -> Standing:
    evidence = _evidence(group)
    done = [result for result in group if result.reason is None]
    seconds = [result.seconds for result in done if result.seconds is not None]
    failed = {result.cell.seed: result.reason for result in group if result.reason is not None}
    pretrained = scratch = gain = None
    if evidence is not None:
        measured = {arm: _measured(list(rows.values())) for arm, rows in evidence.right.items()}
        pretrained, scratch = accuracy(measured["pretrained"]), accuracy(measured["scratch"])
        gain = paired_gain(measured["pretrained"], measured["scratch"], same_draws=True)
    return Standing(
        group[0].cell.varied,
        [result.cell.seed for result in done],
        pretrained,
        scratch,
        gain,
        sum(seconds) / len(seconds) if seconds else None,
        failed,
    )


def _measured(rows: Sequence[NDArray[np.float64]]) -> Measured:
    return Measured(np.stack(rows))


def _rank(standing: Standing) -> tuple[int, float]:
    if standing.pretrained is None:
        return 2, 0.0
    return int(bool(standing.failed)), -standing.pretrained.mean


def _difference(best: _Evidence | None, other: _Evidence | None) -> Interval | None:
    """How far the other is behind, over the rows that both have; None on other test images."""
    if best is None or other is None or not _same_images(best, other):
        return None
    ours, theirs = best.right["pretrained"], other.right["pretrained"]
    common = [row for row in ours if row in theirs]
    if not common:
        return None
    return paired_gain(
        _measured([ours[row] for row in common]),
        _measured([theirs[row] for row in common]),
        same_draws=True,
    )


def rows(standings: Sequence[Standing]) -> list[dict[str, Any]]:
    """The leaderboard as flat rows, for tables that others draw; fractions of 1."""
    return [
        {
            "place": place,
            **standing.varied,
            **_columns("accuracy", standing.pretrained),
            **_columns("scratch", standing.scratch),
            **_columns("gain", standing.gain),
            **_columns("behind", standing.behind),
            "seconds": standing.seconds and round(standing.seconds, 1),
            "done": len(standing.seeds),
            "failed": "; ".join(f"seed {seed}: {why}" for seed, why in standing.failed.items()),
        }
        for place, standing in enumerate(standings, 1)
    ]


def _columns(name: str, interval: Interval | None) -> dict[str, float | None]:
    values = (None,) * 3 if interval is None else (interval.mean, interval.low, interval.high)
    rounded = [None if value is None else round(value, 6) for value in values]
    return dict(zip((name, f"{name}_low", f"{name}_high"), rounded, strict=True))
