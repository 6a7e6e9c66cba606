"""What every self-supervised method offers."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import NotRequired, TypedDict

import torch
from torch import Tensor, nn

from models.encoders.images.encoder import Encoder
from models.errors import ModelError
from models.methods.settings import MultiCropSettings


class StepOutput(TypedDict):
    """What a training step gives.

    Attributes:
        loss: A scalar.
        embeddings: (M, D), which the collapse monitor watches.
        metrics: Scalars that are averaged over the epoch and kept beside the loss.
    """

    loss: Tensor
    embeddings: NotRequired[Tensor]
    metrics: NotRequired[dict[str, Tensor]]


class Method(nn.Module, ABC):
    """A way to train `encoder` on views alone.

    Parameters that need no gradient, such as a momentum copy's, are not optimised; what must
    survive a resume, such as a queue, is a buffer. Randomness comes from torch's generator,
    which is keyed by seed and step while `training_step` runs.
    """

    def __init__(self, encoder: Encoder):
        super().__init__()
        self.encoder = encoder

    def expect(self, images: int) -> None:
        """Learn, before the first step, of how many images `index` of a batch tells them apart."""

    def before_epoch(self) -> None:
        """Prepare for an epoch, before its first batch; randomness is keyed by seed and epoch."""

    @abstractmethod
    def training_step(self, batch: dict) -> StepOutput:
        """Give the loss of a batch.

        Args:
            batch: `views`, float images (N, C, H, W) in [0, 1] each, as many as the settings ask
                for, small crops last; and `index` (N,) int64, from 0 to below what `expect` was
                told.
        """

    def after_step(self, progress: float) -> None:
        """Follow a step of the optimizer.

        Args:
            progress: Share of the run's steps before this one, from 0 to below 1.
        """

    def pictures(self, images: Tensor) -> Mapping[str, Tensor]:
        """Show what the method makes of images, for people to look at.

        Called once, after training, in evaluation mode, without gradient and seeded.

        Args:
            images: (N, C, H, W) in [0, 1], whole images that were trained on.

        Returns:
            Rows of pictures by their caption, such as "masked" or "rebuilt": (N, C, H, W) in
            [0, 1] each. The images themselves are shown above them. Empty: nothing to look at.
        """
        return {}


def one_view(batch: dict) -> Tensor:
    """The view of a batch, for methods that need no other: float images (N, C, H, W)."""
    if len(batch["views"]) != 1:
        raise ModelError(f"this method takes one view of an image, got {len(batch['views'])}")
    return batch["views"][0]


def two_views(batch: dict) -> tuple[Tensor, Tensor]:
    """The views of a batch, for methods that compare two: float images (N, C, H, W) each."""
    if len(batch["views"]) != 2:
        raise ModelError(f"this method compares two views of an image, got {len(batch['views'])}")
    first, second = batch["views"]
    return first, second


def require_crops(encoder: Encoder, params: MultiCropSettings) -> None:
    """Raise ModelError unless the encoder takes small crops of the size that is set."""
    if params.local_views and not encoder.takes(params.local_size):
        raise ModelError(
            "this encoder takes no small crops; set pretrain.method.local_views to 0 "
            "or take a CNN or a plain ViT",
            {"pretrain.method.local_views": 0},
        )


def encode_crops(encoder: Encoder, batch: dict, local_views: int) -> Tensor:
    """Encode two views and small crops, those of one size in one pass (SwAV, section 3.2).

    Returns:
        ((2 + local_views) * N, D) features, one crop of all images after the other.
    """
    views = batch["views"]
    if len(views) != 2 + local_views:
        raise ModelError(
            f"this method compares two views and {local_views} small crops of an image, "
            f"got {len(views)}"
        )
    sizes = (views[:2], views[2:]) if local_views else (views,)
    return torch.cat([encoder(torch.cat(crops)) for crops in sizes])
