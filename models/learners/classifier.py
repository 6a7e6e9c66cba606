"""What every learner gives back: an encoder and one linear layer."""

import torch
from torch import Tensor, nn

from models.encoders.images.encoder import Encoder
from models.encoders.images.pixels import to_float
from models.encoders.params import Readout
from models.training.eval_mode import evaluating


class Classifier(nn.Module):
    """Logits from images; the head sees what `readout` says."""

    def __init__(self, encoder: Encoder, classes: int, readout: Readout):
        super().__init__()
        self.encoder = encoder
        self.readout = readout
        self.head = nn.Linear(encoder.read_out_dim(readout), classes)
        self.head.to(encoder.mean.device)

    def forward(self, images: Tensor) -> Tensor:
        """Map float images (N, C, H, W) in [0, 1] to logits (N, K)."""
        return self.head(self.encoder.read_out(images, self.readout))

    def predict_proba(self, images: Tensor, batch_size: int = 512) -> Tensor:
        """Map uint8 (N, H, W, C), or float images as `forward` takes, to probabilities.

        Works in eval mode whatever the mode, batch by batch.

        Returns:
            float32 (N, K) on the CPU, rows summing to 1.
        """
        device = self.encoder.mean.device
        with evaluating(self):
            parts = [
                self(to_float(part, device)).float().softmax(dim=1).cpu()
                for part in images.split(batch_size)
            ]
        return torch.cat(parts)
