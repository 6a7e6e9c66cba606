"""Learners for few labels by name; importing this package does not import torch.

A learner is a function `fit(params, task) -> Classifier`. To add one: a file here, its params in
`params.py`, and its line in `LEARNERS`.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from models.learners.params import FinetuneParams, LearnerParams, LinearProbeParams

if TYPE_CHECKING:
    from torch import Tensor

    from models.encoders.images.encoder import Encoder
    from models.learners.classifier import Classifier
    from models.learners.task import Augment, LabelledTask

__all__ = [
    "LEARNERS",
    "FinetuneParams",
    "LearnerParams",
    "LinearProbeParams",
    "build_classifier",
    "fit_classifier",
]


def _linear_probe(params: Any, task: "LabelledTask") -> "Classifier":
    from models.learners import linear_probe

    return linear_probe.fit(params, task)


def _finetune(params: Any, task: "LabelledTask") -> "Classifier":
    from models.learners import finetune

    return finetune.fit(params, task)


# Each imports its learner when called, so that reading the settings costs no import of torch.
LEARNERS: dict[str, Callable[[Any, "LabelledTask"], "Classifier"]] = {
    "linear-probe": _linear_probe,
    "finetune": _finetune,
}


def fit_classifier(
    params: LearnerParams,
    encoder: "Encoder",
    images: "Tensor",
    labels: "Tensor",
    classes: int,
    augment: "Augment",
    seed: int,
    on_report: Callable[[int, dict[str, float]], None] | None = None,
) -> "Classifier":
    """Learn to classify from a few labels; the same call on a fresh encoder is the control.

    The same arguments give the same bits; the global generators are left as they were.

    Args:
        params: The learner and its settings.
        encoder: Where to start; copied, so it stays as it is.
        images: uint8 (N, H, W, C), the labelled images.
        labels: int64 (N,), each in [0, classes), every class at least once.
        classes: K.
        augment: `(uint8 (B, H, W, C), seed) -> float (B, C, H, W)` in [0, 1].
        seed: Fixes order, augmentation, dropout and folds.
        on_report: Called now and then with the steps done and their numbers (`loss`, `lr`); a
            learner without steps calls it once, with 1.

    Raises:
        ModelError: The labels do not fit the images or the classes, or the loss stopped being a
            number.
    """
    from models.learners.task import LabelledTask
    from models.training.randomness import seeded

    task = LabelledTask(encoder, images, labels, classes, augment, seed, on_report)
    with seeded(seed, "learner"):
        return LEARNERS[params.name](params, task)


def build_classifier(params: LearnerParams, encoder: "Encoder", classes: int) -> "Classifier":
    """Build the shape of what `fit_classifier` gives, to load saved weights into."""
    from models.learners.classifier import Classifier

    return Classifier(encoder, classes, params.readout)
