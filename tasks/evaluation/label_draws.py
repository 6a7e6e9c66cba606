"""What the repetitions of a fit have in common, in a number and in words.

With few more labels than are wanted, draws share most of them; with no more, all: then an interval
over the draws knows nothing of what other labels would give, and must not claim to.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any


def label_overlap(draws: Sequence[Sequence[int]]) -> float:
    """Share of its labels that a draw has in common with another, averaged over all pairs.

    Args:
        draws: The rows of each draw, all equally many.

    Returns:
        0 where no label is shared (or there is one draw), 1 where all draws are the same.
    """
    shared = [len({*one} & {*other}) / len(one) for one, other in combinations(draws, 2)]
    return sum(shared) / max(1, len(shared))


def repetitions(metrics: Mapping[str, Any]) -> str:
    """What was repeated: "5 draws of labels", or "5 seeds on the same labels"."""
    what = "seeds on the same labels" if same_labels(metrics) else "draws of labels"
    return f"{metrics['pretrained']['accuracy']['n']} {what}"


def same_labels(metrics: Mapping[str, Any]) -> bool:
    """Whether all draws had the same labels (an older version may not say)."""
    return metrics.get("label_overlap") == 1
