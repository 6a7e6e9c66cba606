"""What every self-supervised method offers."""

from abc import ABC, abstractmethod
from typing import NotRequired, TypedDict

from torch import Tensor, nn

from models.encoders import Encoder


class StepOutput(TypedDict):
    """What a training step gives: the loss and, where there are any, embeddings (M, D)."""

    loss: Tensor
    embeddings: NotRequired[Tensor]


class Method(nn.Module, ABC):
    """A way to train `encoder` on views alone."""

    def __init__(self, encoder: Encoder):
        super().__init__()
        self.encoder = encoder

    @abstractmethod
    def training_step(self, batch: dict) -> StepOutput:
        """Give the loss of a batch, whose `views` are float images (N, C, H, W) each."""
