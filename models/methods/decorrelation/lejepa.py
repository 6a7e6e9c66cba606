"""LeJEPA: Provable and Scalable Self-Supervised Learning Without the Heuristics.

Balestriero, LeCun 2025, https://arxiv.org/abs/2511.08544. z = g(f(x)) of each view;
L = (1 - lambda) invariance + lambda SIGReg: each view's z is near the mean of its image's views,
and z over the batch is an isotropic Gaussian, tested on random directions that are new each step
(Epps and Pulley's test). No negatives, no teacher, no stop-gradient, one weight.

The paper predicts from global and local views; here are two views, both global.

Accepts any encoder. lambda, slices and the embeddings' width are those of the authors' minimal
example (https://github.com/rbalestr-lab/lejepa, MINIMAL.md), the hidden width is its by 8. The
paper advises batches of 128 and more.
"""

import torch

from models.encoders.images.encoder import Encoder
from models.layers.heads import mlp
from models.methods.base import Method, StepOutput, two_views
from models.methods.decorrelation.params import LeJEPAParams
from models.methods.losses import sigreg


class LeJEPA(Method):
    """f is the encoder, g the projector."""

    def __init__(self, params: LeJEPAParams, encoder: Encoder):
        super().__init__(encoder)
        self.gaussian_weight, self.slices = params.gaussian_weight, params.slices
        hidden, dim = params.projector_hidden, params.projector_dim
        self.projector = mlp(encoder.features_dim, hidden, hidden, dim)

    def training_step(self, batch: dict) -> StepOutput:
        """Weigh the agreement of views against the shape of their distribution."""
        x1, x2 = two_views(batch)
        z1, z2 = self.projector(self.encoder(x1)), self.projector(self.encoder(x2))
        invariance = (z1 - z2).square().mean() / 4  # to the mean of the two
        directions = torch.randn(z1.shape[1], self.slices, device=z1.device)
        gaussian = (sigreg(z1, directions) + sigreg(z2, directions)) / 2
        return {
            "loss": (1 - self.gaussian_weight) * invariance + self.gaussian_weight * gaussian,
            "embeddings": z1,
            "metrics": {"invariance": invariance, "gaussian": gaussian},
        }
