"""Features of many images, without a trace on a training in progress."""

import torch
from torch import Tensor

from models.encoders.images.encoder import Encoder
from models.encoders.images.pixels import to_float
from models.encoders.params import Readout
from models.training.eval_mode import evaluating


def extract_features(
    encoder: Encoder, images: Tensor, batch_size: int = 512, readout: Readout | None = None
) -> Tensor:
    """Encode images in eval mode, batch by batch.

    Args:
        encoder: Moved nowhere; batches go to the device it is on.
        images: uint8 (N, H, W, C), or float (N, C, H, W) in [0, 1].
        batch_size: Images encoded at once; bounds the memory.
        readout: Which features; None gives the encoder's own.

    Returns:
        float32 (N, E) on the CPU.
    """
    readout = readout or encoder.readout
    device = encoder.mean.device
    with evaluating(encoder):
        parts = [
            encoder.read_out(to_float(part, device), readout).float().cpu()
            for part in images.split(batch_size)
        ]
    return torch.cat(parts)
