"""How many images a user's own data should give, counted by their names before any is decoded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from data.params import DataParams
from data.splits import held_out


class Outlook(NamedTuple):
    """What the training split should hold; fewer once damaged images and duplicates are out.

    Attributes:
        train: Images, unlabelled ones included.
        per_class: Labelled ones of each class.
    """

    train: int
    per_class: list[int]

    @classmethod
    def of_summary(cls, summary: Mapping[str, Any]) -> Outlook:
        """What prepare's summary.json says it does hold."""
        return cls(summary["train"], list(summary["train_per_class"]))


def look_ahead(params: DataParams) -> Outlook | None:
    """Counts the images that `params` names; None of a built-in data set or where there is nothing.

    Raises:
        DataError: The data cannot be understood.
    """
    from data.sources.folder import Folder
    from data.sources.npz import Npz

    if params.source not in ("folder", "npz") or not Path(params.path).exists():
        return None
    with closing(Npz(params) if params.source == "npz" else Folder(params)) as source:
        counts = Counter(source.placed())
        known = [counts["train", label] for label in range(len(source.classes))]
        unlabelled = sum(n for (_, label), n in counts.items() if label is None)
        if source.test_from is None:
            known = [count - held_out(count, params.test_fraction) for count in known]
        return Outlook(sum(known) + unlabelled, known)
