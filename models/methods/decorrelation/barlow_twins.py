"""Barlow Twins: Self-Supervised Learning via Redundancy Reduction.

Zbontar, Jing, Misra, LeCun, Deny 2021, https://arxiv.org/abs/2103.03230. z = g(f(x)) of each view;
the cross-correlation C of the two views' z over the batch is pulled to the identity: each
dimension says the same of both views (the diagonal), no two dimensions the same (the rest),
equation 1. No negatives, no teacher, no stop-gradient.

Accepts any encoder. Widths are those of the paper by 8; lambda is the paper's, which found a wide
range to do. Wants batches of 128 and more, since C is estimated over the batch.
"""

from models.encoders.images.encoder import Encoder
from models.layers.heads import mlp
from models.methods.base import Method, StepOutput, two_views
from models.methods.decorrelation.params import BarlowTwinsParams
from models.methods.losses import barlow_twins, cross_correlation


class BarlowTwins(Method):
    """f is the encoder, g the projector."""

    def __init__(self, params: BarlowTwinsParams, encoder: Encoder):
        super().__init__(encoder)
        self.redundancy_weight = params.redundancy_weight
        dim = params.projector_dim
        self.projector = mlp(encoder.features_dim, dim, dim, dim)

    def training_step(self, batch: dict) -> StepOutput:
        """Decorrelate dimensions and align views (algorithm 1)."""
        x1, x2 = two_views(batch)
        z1, z2 = self.projector(self.encoder(x1)), self.projector(self.encoder(x2))
        correlation = cross_correlation(z1, z2)
        return {
            "loss": barlow_twins(correlation, self.redundancy_weight),
            "embeddings": z1,
            "metrics": {"view_correlation": correlation.diagonal().mean()},
        }
