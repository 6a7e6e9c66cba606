"""Views of images. One policy (`AugmentationParams`), two engines that realise it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from data.params import AugmentationParams

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


def build_augmenter(params: AugmentationParams, size: int, channels: int) -> Augmenter:
    """The engine that `params` names, for square images of `size` pixels."""
    if params.engine == "batched":
        from data.augment.batched import BatchedAugmenter

        return BatchedAugmenter(params, size, channels)
    from data.augment.albumentations_engine import AlbumentationsAugmenter

    return AlbumentationsAugmenter(params, size, channels)


def to_float(images: torch.Tensor) -> torch.Tensor:
    """uint8 (N, H, W, C) to float32 (N, C, H, W) in [0, 1], in channels_last memory."""
    import torch

    # `.to` keeps the strides, which after the permutation are those of channels_last.
    return images.permute(0, 3, 1, 2).to(torch.float32).div_(255.0)
