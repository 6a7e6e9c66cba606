"""Batch norm's statistics, measured on what the encoder's users will show it."""

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from models.encoders.images.pixels import to_float
from models.training.eval_mode import evaluating

# Images at once: enough that a batch's own statistics are nearly those of all.
_AT_ONCE = 256


def measure_norms(encoder: nn.Module, images: Tensor) -> None:
    """Replace batch norm's running statistics by their means over batches of whole images.

    Training leaves those of views (crops, holes, tiles), weighted towards the last steps. Encoders
    without batch norm stay as they are. See Wu and Johnson 2021, "Rethinking 'Batch' in BatchNorm",
    section 3, https://arxiv.org/abs/2105.07576.

    Args:
        encoder: Whose norms to measure; all else of it stays in its mode and as it is.
        images: uint8 (N, H, W, C), or float (N, C, H, W) in [0, 1].
    """
    norms = [
        module
        for module in encoder.modules()
        if isinstance(module, _BatchNorm) and module.running_mean is not None
    ]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    device = next(encoder.parameters()).device
    with evaluating(encoder):
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # PyTorch's word for the plain mean over batches
            norm.train()
        for batch in torch.tensor_split(images, -(-len(images) // _AT_ONCE)):
            encoder(to_float(batch, device))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
