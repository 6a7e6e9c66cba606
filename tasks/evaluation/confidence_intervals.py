"""How sure an accuracy is, and a difference of two: over test images and label draws alike.

Other test images, and other labelled images to learn from, would have given other numbers. An
interval that knew only the draws would be far too narrow on a small test set, and of no width where
two draws happen to agree; one that knew only the images would take a draw's luck for a gain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 10_000


@dataclass(frozen=True)
class Interval:
    """A mean over `n` draws and its two-sided 95% interval; None where one draw cannot tell.

    It is cut off where no value can be: few draws make it wide.
    """

    mean: float
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True)
class Measured:
    """A way of learning on the test images.

    Attributes:
        right: (D, N) whether the model of each draw is right on each image.
        draws: Accuracies that say how far draws lie apart, where `right` holds fewer of them.
    """

    right: NDArray[np.bool_]
    draws: NDArray[np.float64] | None = None

    def luck(self) -> tuple[float, int]:
        """Standard error of the mean accuracy over draws, and its degrees of freedom."""
        accuracies = self.right.mean(axis=1) if self.draws is None else self.draws
        return _deviation(accuracies) / np.sqrt(len(self.right)), len(accuracies) - 1


def accuracy(measured: Measured) -> Interval:
    """Mean accuracy of the draws; see `paired_gain` for the interval."""
    right = measured.right
    return _bootstrapped(right.mean(axis=0), [measured.luck()], len(right), 0.0)


def paired_gain(
    treated: Measured,
    control: Measured,
    same_draws: bool = False,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Interval:
    """Two-level bootstrap of the difference of two mean accuracies, over test images and draws.

    The images are resampled in pairs (Efron, 1979). A handful of draws is too few to resample: the
    interval would be a third too short. Their luck is drawn from Student's t instead, one for each
    side (Behrens-Fisher). As in Owen's bootstrap of two-way data (The pigeonhole bootstrap,
    Annals of Applied Statistics 1(2), 2007), what image and draw owe to each other counts on both
    levels, so the interval errs to the safe side.

    Args:
        treated: On all test images.
        control: On the same images, in the same order.
        same_draws: Draw k of both learned from the same labels with the same seed, so that its
            luck is in both and cancels. Draws that merely bear the same number are independent.
        seed: Of the resampling.
        resamples: How many.
    """
    counts = len(treated.right), len(control.right)
    if same_draws and counts[0] != counts[1]:
        raise ValueError(f"{counts[0]} draws against {counts[1]}: they must be pairs")
    if same_draws:
        gains = treated.right.mean(axis=1) - control.right.mean(axis=1)
        lucks = [(_deviation(gains) / np.sqrt(counts[0]), counts[0] - 1)]
    else:
        lucks = [treated.luck(), control.luck()]
    difference = treated.right.mean(axis=0) - control.right.mean(axis=0)
    return _bootstrapped(difference, lucks, min(counts), -1.0, seed, resamples)


def _bootstrapped(
    values: NDArray[np.float64],
    lucks: Sequence[tuple[float, int]],
    draws: int,
    least: float,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Interval:
    """The mean of `values` (N,), one an image: the images resampled, the draws' luck added."""
    mean = float(values.mean())
    if min(freedom for _, freedom in lucks) < 1:
        return Interval(mean, None, None, draws)
    random = np.random.default_rng(seed)
    # A resampled mean needs only how often each of the few values was drawn: a multinomial.
    kinds, counts = np.unique(values, return_counts=True)
    means = random.multinomial(len(values), counts / len(values), size=resamples) @ kinds
    means /= len(values)
    for error, freedom in lucks:
        means += error * random.standard_t(freedom, resamples)
    low, high = np.quantile(means, (0.025, 0.975))
    return Interval(mean, max(least, float(low)), min(1.0, float(high)), draws)


def _deviation(values: NDArray[np.float64]) -> float:
    return float(values.std(ddof=1)) if len(values) > 1 else 0.0
