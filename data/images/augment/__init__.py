"""Views of images. One policy (`AugmentationParams`), two engines that realise it."""

from __future__ import annotations

from data.images.augment.augmenter import Augmenter
from data.images.augment.params import AugmentationParams


def build_augmenter(params: AugmentationParams, size: int, channels: int) -> Augmenter:
    """The engine that `params` names, for square images of `size` pixels."""
    if params.engine == "batched":
        from data.images.augment.batched import BatchedAugmenter

        return BatchedAugmenter(params, size, channels)
    from data.images.augment.albumentations_engine import AlbumentationsAugmenter

    return AlbumentationsAugmenter(params, size, channels)
