"""SimSiam: Exploring Simple Siamese Representation Learning.

Chen, He 2021, https://arxiv.org/abs/2011.10566. z = g(f(x)) of each view, p = h(z); each view's
prediction p points to the other view's z, which is held fixed (stop-gradient):
L = D(p1, stopgrad(z2)) / 2 + D(p2, stopgrad(z1)) / 2, D the negative cosine (equations 1 to 4).
No negatives, no teacher: without the stop-gradient it would collapse.

Accepts any encoder. Widths are those of the paper by 8, as the encoders here are narrower than
its ResNet-50; the predictor stays a bottleneck of a quarter.
"""

from models.encoders.images.encoder import Encoder
from models.layers.heads import mlp
from models.methods.base import Method, StepOutput, two_views
from models.methods.losses import negative_cosine
from models.methods.self_distillation.params import SimSiamParams


class SimSiam(Method):
    """f is the encoder, g the projector, h the predictor."""

    def __init__(self, params: SimSiamParams, encoder: Encoder):
        super().__init__(encoder)
        hidden, dim = params.projector_hidden, params.projector_dim
        self.projector = mlp(encoder.features_dim, hidden, hidden, dim, norm_output=True)
        self.predictor = mlp(dim, params.predictor_hidden, dim)

    def training_step(self, batch: dict) -> StepOutput:
        """Predict each view's embedding from the other's (algorithm 1)."""
        x1, x2 = two_views(batch)
        z1, z2 = self.projector(self.encoder(x1)), self.projector(self.encoder(x2))
        p1, p2 = self.predictor(z1), self.predictor(z2)
        loss = negative_cosine(p1, z2.detach()) / 2 + negative_cosine(p2, z1.detach()) / 2
        return {"loss": loss, "embeddings": z1}
