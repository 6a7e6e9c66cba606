"""Whether two sets of images come from one distribution: a permutation test on several statistics.

Each statistic is compared with its own values after the images have been dealt out again, so none
needs a table or an assumption. Their smallest p-value is compared with the smallest ones of the
same deals (Westfall and Young's min-p), so that many statistics raise no more false alarms than one
does: if the two sets are alike, p is at most alpha with a probability of at most alpha.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

EMBEDDING = "embedding"
# The smallest p that so many deals can show must lie below any sensible alpha.
PERMUTATIONS = 1999


class Sample(NamedTuple):
    """What is known of n images."""

    embedding: np.ndarray
    """(n, D)."""
    pixels: Mapping[str, np.ndarray]
    """Simple statistics by name, a number an image: (n,) each."""


@dataclass(frozen=True)
class Statistic:
    """How far the two sets are apart by one measure.

    Attributes:
        name: `embedding`, or that of a pixel statistic.
        effect: The largest difference between the two distribution functions (0 to 1), or, of the
            embedding, the maximum mean discrepancy (0 to 1.41).
        p: Its own p-value, not corrected for the company of the others.
    """

    name: str
    effect: float
    p: float


@dataclass(frozen=True)
class Comparison:
    """The answer for all statistics together.

    Attributes:
        p: How often sets that are alike would differ as much; see the module.
        statistics: Each one, the embedding first.
    """

    p: float
    statistics: list[Statistic]


def compare(
    old: Sample, new: Sample, seed: int = 0, permutations: int = PERMUTATIONS
) -> Comparison:
    """Compare two samples of images; the same samples and seed give the same answer."""
    dealt = _deals(len(old.embedding), len(new.embedding), seed, permutations)
    values = {EMBEDDING: mmd2(np.concatenate([old.embedding, new.embedding]), dealt)}
    for name, known in old.pixels.items():
        values[name] = ks(np.concatenate([known, new.pixels[name]]), dealt)
    own = np.stack([_p_values(each) for each in values.values()])
    smallest = own.min(axis=0)
    return Comparison(
        float((smallest <= smallest[0]).mean()),
        [
            Statistic(name, _effect(name, each[0]), float(p[0]))
            for (name, each), p in zip(values.items(), own, strict=True)
        ],
    )


def mmd2(pooled: np.ndarray, dealt: np.ndarray) -> np.ndarray:
    """Squared maximum mean discrepancy, unbiased, of each deal (Gretton et al. 2012, eq. 3).

    The kernel is Gaussian, as wide as the median distance of all images, which no deal changes.

    Args:
        pooled: (N, D).
        dealt: (deals, N), 1 for the images of the second set.

    Returns:
        (deals,)
    """
    kernel = _gaussian(pooled.astype(np.float64))
    in_new, in_old = dealt.sum(axis=1), (1 - dealt).sum(axis=1)
    # Constants cancel between the three terms; without this one, so do most digits.
    kernel -= kernel.sum() / (len(kernel) * (len(kernel) - 1))
    np.fill_diagonal(kernel, 0.0)
    product = (dealt.astype(np.float32) @ kernel.astype(np.float32)).astype(np.float64)
    new = (product * dealt).sum(axis=1)
    either = product.sum(axis=1)
    old = kernel.sum() - 2 * either + new
    between = either - new
    return (
        new / (in_new * (in_new - 1))
        + old / (in_old * (in_old - 1))
        - 2 * between / (in_new * in_old)
    )


def ks(pooled: np.ndarray, dealt: np.ndarray) -> np.ndarray:
    """Largest distance between the two empirical distribution functions, of each deal (deals,)."""
    order = np.argsort(pooled, kind="stable")
    # Between equal values a distribution function has no step of its own.
    last = np.append(np.diff(pooled[order]) > 0, True)
    below = np.cumsum(dealt[:, order], axis=1, dtype=np.float64)[:, last]
    all_below = np.arange(1, len(pooled) + 1)[last]
    new = dealt.sum(axis=1, keepdims=True)
    return np.abs(below / new - (all_below - below) / (len(pooled) - new)).max(axis=1)


def _deals(old: int, new: int, seed: int, permutations: int) -> np.ndarray:
    """Who is in the second set: first as it is, then at random; (1 + permutations, old + new)."""
    dealt = np.zeros((1 + permutations, old + new), np.uint8)
    dealt[:, old:] = 1
    dealt[1:] = np.random.default_rng(seed).permuted(dealt[1:], axis=1)
    return dealt


def _gaussian(points: np.ndarray) -> np.ndarray:
    squares = (points**2).sum(axis=1)
    apart = np.maximum(squares[:, None] + squares - 2 * points @ points.T, 0.0)
    width = np.median(apart[np.triu_indices(len(apart), k=1)])
    kernel = np.exp(-apart / (2 * width)) if width > 0 else (apart == 0).astype(np.float64)
    np.fill_diagonal(kernel, 0.0)
    return kernel


def _p_values(values: np.ndarray) -> np.ndarray:
    """Of each deal, the share of deals that lie as far out as it does, itself included."""
    # Rounding: the same deal must not lie beyond itself.
    rounded = np.round(values, 12)
    below = np.searchsorted(np.sort(rounded), rounded, side="left")
    return (len(values) - below) / len(values)


def _effect(name: str, value: float) -> float:
    return float(np.sqrt(max(value, 0.0)) if name == EMBEDDING else value)
