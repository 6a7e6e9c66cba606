"""VICReg: Variance-Invariance-Covariance Regularization.

Bardes, Ponce, LeCun 2022, https://arxiv.org/abs/2105.04906. z = g(f(x)) of each view;
L = lambda s(Z, Z') + mu (v(Z) + v(Z')) + nu (c(Z) + c(Z')) (equation 6): views agree, no
dimension dies, no two say the same. s is the mean squared difference over all dimensions, as in
algorithm 1 (equation 5 sums over them).

Accepts any encoder. Widths are those of the paper by 8; the three weights are the paper's.
"""

import torch.nn.functional as F

from models.encoders.images.encoder import Encoder
from models.layers.heads import mlp
from models.methods.base import Method, StepOutput, two_views
from models.methods.decorrelation.params import VICRegParams
from models.methods.losses import covariance_penalty, variance_hinge


class VICReg(Method):
    """f is the encoder, g the projector (the paper's expander)."""

    def __init__(self, params: VICRegParams, encoder: Encoder):
        super().__init__(encoder)
        self.params = params
        dim = params.projector_dim
        self.projector = mlp(encoder.features_dim, dim, dim, dim)

    def training_step(self, batch: dict) -> StepOutput:
        """Weigh the three terms (algorithm 1)."""
        x1, x2 = two_views(batch)
        z1, z2 = self.projector(self.encoder(x1)), self.projector(self.encoder(x2))
        invariance = F.mse_loss(z1, z2)
        variance = variance_hinge(z1) + variance_hinge(z2)
        covariance = covariance_penalty(z1) + covariance_penalty(z2)
        loss = (
            self.params.invariance_weight * invariance
            + self.params.variance_weight * variance
            + self.params.covariance_weight * covariance
        )
        terms = {"invariance": invariance, "variance": variance, "covariance": covariance}
        return {"loss": loss, "embeddings": z1, "metrics": terms}
