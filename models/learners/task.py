"""What a learner is given."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from models.encoders.images.encoder import Encoder
from models.errors import ModelError

Augment = Callable[[Tensor, int], Tensor]


@dataclass(frozen=True)
class LabelledTask:
    """An encoder to start from, labelled images, and how to vary them; see `fit_classifier`."""

    encoder: Encoder
    images: Tensor
    labels: Tensor
    classes: int
    augment: Augment
    seed: int
    on_report: Callable[[int, dict[str, float]], None] | None = None

    def __post_init__(self) -> None:
        if len(self.images) != len(self.labels):
            raise ModelError(
                f"there are {len(self.images)} images but {len(self.labels)} labels; "
                "each labelled image needs one"
            )
        outside = self.labels[(self.labels < 0) | (self.labels >= self.classes)]
        if len(outside):
            raise ModelError(
                f"label {int(outside[0])} is outside the {self.classes} classes; "
                "give unlabelled images to pretraining only"
            )
        missing = set(range(self.classes)) - set(self.labels.tolist())
        if missing:
            raise ModelError(
                f"class {min(missing)} has no labelled image; raise finetune.label_fraction"
            )

    @property
    def device(self) -> torch.device:
        """Where the encoder is, and so where the work is done."""
        return self.encoder.mean.device

    def report(self, step: int, numbers: dict[str, float]) -> None:
        """Report to the listeners."""
        if self.on_report is not None:
            self.on_report(step, numbers)
