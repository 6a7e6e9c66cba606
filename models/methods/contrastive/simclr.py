"""SimCLR: A Simple Framework for Contrastive Learning of Visual Representations.

Chen, Kornblith, Norouzi, Hinton 2020, https://arxiv.org/abs/2002.05709. For each image, two
random views x1, x2; h = f(x), z = g(h); the loss picks, for each z, the other view of its image
among all other views of the batch (equation 1). g is thrown away, h is what is kept.

Accepts any encoder. The paper's h is mean-pooled; an encoder whose `readout` keeps a coarse grid
lets the embedding know where things are (docs/decisions/0002). The hidden width is the paper's by
8, the embeddings' own is kept; tau lies between the paper's for ImageNet, 0.1, and CIFAR-10, 0.5.
"""

import torch

from models.encoders.images.encoder import Encoder
from models.layers.heads import mlp
from models.methods.base import Method, StepOutput, two_views
from models.methods.contrastive.params import SimCLRParams
from models.methods.losses import nt_xent


class SimCLR(Method):
    """f is the encoder, g the projector."""

    def __init__(self, params: SimCLRParams, encoder: Encoder):
        super().__init__(encoder)
        self.temperature = params.temperature
        self.projector = mlp(encoder.features_dim, params.projector_hidden, params.projector_dim)

    def training_step(self, batch: dict) -> StepOutput:
        """Contrast the two views of each image (algorithm 1)."""
        # Both views in one pass: batch norm sees them together, as in the authors' code.
        h = self.encoder(torch.cat(two_views(batch)))  # (2N, D)
        z = self.projector(h)
        z1, z2 = z.chunk(2)
        return {"loss": nt_xent(z1, z2, self.temperature), "embeddings": z}
