"""From stored images to what a network takes."""

import torch
from torch import Tensor


def to_float(images: Tensor, device: torch.device | None = None) -> Tensor:
    """Turn uint8 (N, H, W, C) into float32 (N, C, H, W) in [0, 1], channels_last.

    Float images pass through, moved only.
    """
    # Moved first: a quarter of the bytes travel.
    images = images.to(device, non_blocking=True)
    if images.dtype == torch.uint8:
        # A permuted NHWC tensor *is* channels_last, so nothing is copied twice.
        return images.permute(0, 3, 1, 2).float().div_(255)
    return images
