"""NNCLR: With a Little Help from My Friends.

Dwibedi, Aytar, Tompson, Sermanet, Zisserman 2021, https://arxiv.org/abs/2104.14548. z = g(f(x)) of
each view, p = h(z). The positive of p2 is not z1 but its nearest neighbour NN(z1, Q) in a support
set Q of embeddings of former batches: another image, likely of the same kind. InfoNCE over the
batch (equations 2 and 3), both ways round; then z1 joins Q.

Accepts any encoder. Widths are those of the paper by 8, the embeddings' own is kept; `support` is
about the paper's share of the data (8%), for Fashion-MNIST.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from models.encoders.images.encoder import Encoder
from models.layers.heads import mlp
from models.layers.momentum import enqueue
from models.methods.base import Method, StepOutput, two_views
from models.methods.contrastive.params import NNCLRParams
from models.methods.losses import info_nce


class NNCLR(Method):
    """f is the encoder, g the projector, h the predictor."""

    support: Tensor

    def __init__(self, params: NNCLRParams, encoder: Encoder):
        super().__init__(encoder)
        self.temperature = params.temperature
        hidden, dim = params.projector_hidden, params.projector_dim
        self.projector = mlp(encoder.features_dim, hidden, hidden, dim, norm_output=True)
        self.predictor = mlp(dim, params.predictor_hidden, dim)
        self.register_buffer("support", F.normalize(torch.randn(params.support, dim), dim=1))

    def training_step(self, batch: dict) -> StepOutput:
        """Contrast each view's neighbour with the other view's prediction (algorithm 1)."""
        x1, x2 = two_views(batch)
        z1, z2 = self.projector(self.encoder(x1)), self.projector(self.encoder(x2))
        p1, p2 = self.predictor(z1), self.predictor(z2)
        loss1, accuracy1 = info_nce(self.neighbours(z1), p2, self.temperature)
        loss2, accuracy2 = info_nce(self.neighbours(z2), p1, self.temperature)
        self.support = enqueue(self.support, F.normalize(z1.detach(), dim=1))
        return {
            "loss": (loss1 + loss2) / 2,
            "embeddings": z1,
            "metrics": {"positive_accuracy": (accuracy1 + accuracy2) / 2},
        }

    def neighbours(self, z: Tensor) -> Tensor:
        """Give the member of the support set nearest by cosine to each of z: (N, D) to (N, D)."""
        nearest = (F.normalize(z, dim=1) @ self.support.T).argmax(dim=1)
        return self.support[nearest]
