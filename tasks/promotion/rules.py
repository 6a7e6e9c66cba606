"""The gate's rules, each with what it found in words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.evaluation import label_draws
from tasks.evaluation.confidence_intervals import Interval, Measured, paired_gain
from tasks.promotion.champion_evaluation import Evaluation, OnTestSet, listed
from tasks.settings.schema import GateParams


@dataclass(frozen=True)
class Finding:
    """One rule: whether it holds, and what was found."""

    holds: bool
    words: str

    def __str__(self) -> str:
        return f"{'pass' if self.holds else 'FAIL'}: {self.words}"


def recalls(labels: NDArray[Any], right: NDArray[np.bool_]) -> dict[str, float]:
    """Share of each class's test images that are recognised."""
    return {str(label): float(right[labels == label].mean()) for label in np.unique(labels)}


def compared(
    ours: Evaluation, tested: OnTestSet, same_draws: bool
) -> tuple[Interval, dict[str, float]]:
    """The gain over the champion, and the change of each class's recall."""
    counted = tested.counted
    gain = paired_gain(Measured(ours.all_right[:, counted]), tested.measured, same_draws)
    labels, known = ours.labels[counted], tested.known
    # A class that the champion does not know cannot fall.
    after = recalls(labels[known], ours.registered_right[counted][known])
    before = recalls(labels[known], tested.measured.right[0][known])
    return gain, {label: after[label] - before[label] for label in after}


def against_champion(
    rules: GateParams,
    champion: str,
    ours: Evaluation,
    theirs: Evaluation,
    tested: OnTestSet,
    gain: Interval | None,
    change: dict[str, float],
) -> list[Finding]:
    """What the rules say of a challenger against a champion."""
    found = []
    if gain is None:
        found.append(_nothing_left(champion))
    else:
        found.append(_beyond_noise(gain, champion, tested.conditions))
        if not tested.known.all():
            found.append(_no_worse_where_both_know(ours, tested, champion))
        unmeasured = len({*ours.labels} - {*ours.labels[tested.counted]})
        found.append(_no_class_drop(change, rules.max_class_drop, unmeasured))
    if lost := _lost_classes(ours, theirs, tested):
        found.append(lost)
    if _answers(ours) == 0 < _answers(theirs):
        found.append(_abstains_from_all(champion, _answers(theirs)))
    return found


def _nothing_left(champion: str) -> Finding:
    return Finding(
        False,
        f"champion {champion} learned the labels of every test image, so none is left on which "
        "the two can be compared: bring a test set of your own, or archive the champion",
    )


def _no_worse_where_both_know(ours: Evaluation, tested: OnTestSet, champion: str) -> Finding:
    """New classes must not hide that the challenger is worse at the others."""
    known, counted = tested.known, tested.counted
    new = f"of {(~known).sum()} images champion {champion} does not know the class, so it is wrong"
    if not known.any():
        return Finding(False, f"{new}: no class of the test set is known to both")
    gain = paired_gain(
        Measured(ours.all_right[:, counted][:, known]),
        Measured(tested.measured.right[:, known], tested.measured.draws),
    )
    low, high = (gain.mean if bound is None else bound for bound in (gain.low, gain.high))
    interval = f"on the others: {_in_points(gain.mean, low, high)}"
    if high < 0:
        return Finding(False, f"{new}, and the challenger is worse {interval}")
    return Finding(True, f"{new}, and the challenger is not worse {interval}")


def _lost_classes(ours: Evaluation, theirs: Evaluation, tested: OnTestSet) -> Finding | None:
    """A class that nobody would recognise any more, or of which nobody can tell."""
    told = []
    gone = {theirs.classes[key] for key in theirs.classes.keys() - ours.classes.keys()}
    if gone and ours.classes:
        told.append(f"it does not know what the champion knows: {listed(gone)} (removed, renamed?)")
    if tested.untested:
        told.append(f"the test set has no image any more of: {listed(tested.untested)}")
    if not told:
        return None
    return Finding(
        False, f"{', and '.join(told)}. If that is meant, promote it with --override --reason …"
    )


def _answers(evaluation: Evaluation) -> float:
    """The share of its test images that a version answers."""
    abstention = evaluation.metrics.get("abstention")
    return 1.0 if abstention is None else float(abstention["answered"])


def _abstains_from_all(champion: str, theirs: float) -> Finding:
    return Finding(
        False,
        f"it abstains from every test image, and champion {champion} answers {theirs:.1%} of its "
        "own: more labels, or a lower finetune.abstain_target, make it answer",
    )


def _beyond_noise(gain: Interval, champion: str, conditions: str) -> Finding:
    if gain.low is None or gain.high is None:
        return Finding(
            False,
            f"one label draw is not enough to say whether it is better than champion {champion}: "
            "raise finetune.draws, or archive the champion if that is the one with a single draw",
        )
    interval = _in_points(gain.mean, gain.low, gain.high)
    interval += f" {conditions}" if conditions else ""
    if gain.low > 0:
        return Finding(True, f"better than champion {champion} beyond noise: {interval}")
    return Finding(False, f"not better than champion {champion} beyond noise: {interval}")


def _no_class_drop(change: dict[str, float], most: float, unmeasured: int) -> Finding:
    fallen = {label: drop for label, drop in change.items() if -drop > most}
    if fallen:
        named = ", ".join(f"{label} ({drop:+.1%})" for label, drop in fallen.items())
        return Finding(False, f"recall fell by more than {most:.0%} for: {named}")
    unknown = f" (not known for {unmeasured} classes without an image that counts)"
    return Finding(
        True, f"no class lost more than {most:.0%} of recall{unknown if unmeasured else ''}"
    )


def no_dead_class(found: dict[str, float]) -> Finding:
    """Whether a first model recognises every class at times, by its recalls."""
    dead = [label for label, recall in found.items() if recall == 0]
    if dead:
        return Finding(False, f"never recognises: {', '.join(dead)}")
    return Finding(True, "there is no champion yet, and every class is recognised at times")


def beats_scratch(metrics: dict[str, Any]) -> Finding:
    """Whether pretraining was worth it, by the content of metrics.json."""
    gain = metrics["gain"]
    if gain["low"] is None:
        return Finding(
            False,
            "one label draw is not enough to say whether it beats its from-scratch control: "
            "raise finetune.draws",
        )
    interval = _in_points(gain["mean"], gain["low"], gain["high"])
    interval = f"{interval} over {label_draws.repetitions(metrics)}"
    if gain["low"] > 0:
        return Finding(True, f"beats its from-scratch control: {interval}")
    return Finding(False, f"does not beat its from-scratch control beyond noise: {interval}")


def _in_points(mean: float, low: float, high: float) -> str:
    """A difference of accuracies: in points, since "2% better" could be meant of either."""
    return f"{100 * mean:+.2f} points ({100 * low:+.2f} to {100 * high:+.2f})"
