"""What an augmentation engine takes and gives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch


class Augmenter(Protocol):
    """Makes random views of each image of a batch."""

    def __call__(self, images: torch.Tensor, *seeds: int) -> torch.Tensor:
        """One view of each image for each seed.

        Args:
            images: (N, H, W, C) uint8.
            *seeds: Each decides everything that its views draw: the same images, order and seed
                give the same views, whatever other seeds there are.

        Returns:
            (N, C, S, S) for each seed, one after the other: float32 in [0, 1], in channels_last
            memory, on the device of `images`; S is the policy's `view_size`, or the images' own
            size.
        """
        ...


def to_float(images: torch.Tensor) -> torch.Tensor:
    """uint8 (N, H, W, C) to float32 (N, C, H, W) in [0, 1], in channels_last memory."""
    import torch

    # `.to` keeps the strides, which after the permutation are those of channels_last.
    return images.permute(0, 3, 1, 2).to(torch.float32).div_(255.0)
