"""How many images there are to learn from, also before any of them is decoded.

A batch, a number of clusters or a share of labels can ask for more than that.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np

from data.errors import DataError
from data.samples import Counts
from data.sources import open_source
from data.sources.params import DataParams
from data.store.packed_store import PackedStore
from data.store.splits import held_out


@dataclass(frozen=True)
class Census:
    """Training images, without those of the test set.

    Attributes:
        per_class: Labelled ones, class by class.
        unlabelled: Those without a label.
    """

    per_class: tuple[int, ...]
    unlabelled: int

    @property
    def labelled(self) -> int:
        """Training images with a label."""
        return sum(self.per_class)

    @property
    def train(self) -> int:
        """All training images."""
        return self.labelled + self.unlabelled


def count_listed(params: DataParams) -> Census:
    """Count what the source that `params` names lists; it is the most that can be left of it.

    Damaged images and duplicates, which `prepare` finds, make it fewer. A built-in set is not
    opened, which could download it.

    Raises:
        DataError: The source cannot be found or understood, or a class has too few images.
    """
    if params.source == "fashion-mnist":
        from data.sources.fashion_mnist import COUNTS

        return Census(*COUNTS)
    if params.source == "cifar10":
        from data.sources.cifar10 import COUNTS

        return Census(*COUNTS)
    with closing(open_source(params)) as source:
        counts, splits_off = source.counts, source.test_from is None
        _require_enough(source.classes, counts, splits_off)
    per_class = counts.per_class
    if splits_off:
        per_class = tuple(n - held_out(n, params.test_fraction) for n in per_class)
    return Census(per_class, counts.unlabelled)


def count_packed(store: PackedStore) -> Census:
    """Count what is packed."""
    labels = store.labels(store.rows("train"))
    per_class = np.bincount(labels[labels >= 0], minlength=len(store.classes))
    return Census(tuple(per_class.tolist()), int((labels < 0).sum()))


def _require_enough(classes: Sequence[str], counts: Counts, splits_off: bool) -> None:
    for name, images in zip(classes, counts.per_class, strict=True):
        if not images:
            raise DataError(
                f"data.path: class {name!r} has no training image; add images or remove the class."
            )
        if splits_off and images == 1:
            raise DataError(
                f"data.path: class {name!r} has a single image, so none can be split off for the "
                "test; add images, or bring a test set."
            )
