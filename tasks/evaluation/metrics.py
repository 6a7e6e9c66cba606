"""What is measured on the test set: pure functions of arrays.

kNN and linear-probe accuracies come from `models.encoders.feature_metrics` and `models.learners`.

Written out on numpy since importing scikit-learn costs as long as the whole prediction; the tests
hold every number to scikit-learn's and scipy's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ClassScores:
    """One entry a class; a score with nothing to divide by is 0, as in scikit-learn."""

    precision: Floats
    recall: Floats
    f1: Floats
    support: Ints


@dataclass(frozen=True)
class Calibration:
    """Reliability over equal-width bins of confidence, empty ones left out, and the ECE."""

    confidence: Floats
    accuracy: Floats
    count: Ints
    ece: float


@dataclass(frozen=True)
class Answers:
    """What a model that abstains below a confidence does: share answered, and right of these."""

    coverage: float
    accuracy: float | None


def answers(probabilities: NDArray[np.floating], actual: Ints, threshold: float | None) -> Answers:
    """Judge the answers of at least this confidence; null lets none through."""
    given = probabilities.max(1) >= (np.inf if threshold is None else threshold)
    right = probabilities.argmax(1) == actual
    return Answers(float(given.mean()), float(right[given].mean()) if given.any() else None)


def confusion_matrix(actual: Ints, predicted: Ints, classes: int) -> Ints:
    """Count images (K, K): row is the actual class, column the predicted one."""
    counts = np.bincount(actual * classes + predicted, minlength=classes * classes)
    return counts.reshape(classes, classes)


def accuracy(actual: Ints, predicted: Ints) -> float:
    """Share of equal entries."""
    return float((actual == predicted).mean())


def class_scores(confusion: Ints) -> ClassScores:
    """Precision, recall, F1 and support of each class."""
    right = np.diagonal(confusion).astype(np.float64)
    claimed, support = confusion.sum(0), confusion.sum(1)
    return ClassScores(
        precision=_ratio(right, claimed),
        recall=_ratio(right, support),
        f1=_ratio(2 * right, claimed + support),
        support=support,
    )


def balanced_accuracy(scores: ClassScores) -> float:
    """Mean recall of the classes that occur in the test set."""
    return float(scores.recall[scores.support > 0].mean())


def macro_f1(scores: ClassScores) -> float:
    """Mean F1 of all classes, each weighing the same."""
    return float(scores.f1.mean())


def calibration(probabilities: NDArray[np.floating], actual: Ints, bins: int) -> Calibration:
    """Compare confidence with accuracy (Guo et al. 2017, https://arxiv.org/abs/1706.04599).

    Args:
        probabilities: (N, K), rows sum to 1; the confidence is the largest.
        actual: (N,) class numbers.
        bins: How many bins ((0, 1/bins], …, the last ends at 1).
    """
    confidence = probabilities.max(1).astype(np.float64)
    right = (probabilities.argmax(1) == actual).astype(np.float64)
    place = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    count = np.bincount(place, minlength=bins)
    used = count > 0
    mean_confidence = _ratio(np.bincount(place, confidence, bins), count)[used]
    mean_accuracy = _ratio(np.bincount(place, right, bins), count)[used]
    gaps = np.abs(mean_confidence - mean_accuracy)
    ece = float((gaps * count[used]).sum() / len(actual))
    return Calibration(mean_confidence, mean_accuracy, count[used], ece)


def nearest_rows(bank: Tensor, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Find the k vectors of the bank (M, D) most similar to each query (N, D), by cosine.

    Returns:
        Cosines (N, k), best first, and rows of the bank (N, k); k is lowered to M where need be.
    """
    bank = F.normalize(bank, dim=1)
    parts = [
        (F.normalize(part, dim=1) @ bank.T).topk(min(k, len(bank)), dim=1)
        for part in queries.split(1024)
    ]
    return torch.cat([p.values for p in parts]), torch.cat([p.indices for p in parts])


def _ratio(above: NDArray, below: NDArray) -> Floats:
    return np.divide(above, below, out=np.zeros(len(above)), where=below > 0)
