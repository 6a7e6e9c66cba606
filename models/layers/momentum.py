"""Networks that follow others slowly, and the memory of what they said."""

import copy

import torch
from torch import Tensor, nn


class MomentumCopy(nn.Module):
    """A copy of some modules, applied in a row, which gets no gradient and only follows them.

    Batch norm keeps statistics of its own, of what the copy itself sees.
    """

    def __init__(self, *sources: nn.Module):
        super().__init__()
        self.parts = nn.Sequential(*copy.deepcopy(sources)).requires_grad_(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Apply the parts one after the other, without gradient."""
        return self.parts(images)

    @torch.no_grad()
    def follow(self, *sources: nn.Module, momentum: float) -> None:
        """Set each weight to momentum * itself + (1 - momentum) * its source (MoCo, equation 2).

        Args:
            *sources: Those that were copied, in the same order.
            momentum: From 0, a plain copy, to 1, no move.
        """
        theirs = [weight for source in sources for weight in source.parameters()]
        for mine, its in zip(self.parts.parameters(), theirs, strict=True):
            mine.lerp_(its, 1 - momentum)


def enqueue(queue: Tensor, newest: Tensor) -> Tensor:
    """Put rows at the head of a first-in, first-out queue of fixed length.

    Args:
        queue: (K, D), newest first.
        newest: (N, D).

    Returns:
        (K, D): the newest, then as many of the former as there is room for.
    """
    return torch.cat([newest, queue])[: len(queue)]
