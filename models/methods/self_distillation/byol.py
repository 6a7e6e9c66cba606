"""BYOL: Bootstrap Your Own Latent.

Grill et al. 2020, https://arxiv.org/abs/2006.07733. An online network f, g, q and a target
network f', g' of averaged weights. The online prediction q(g(f(x1))) regresses the target's
g'(f'(x2)), both normalised, and the other way round: L = ||q - z'||^2 = 2 - 2 cos (equation 2).
After each step the target moves to tau * itself + (1 - tau) * online, tau rising to 1 (section
3.3).

Accepts any encoder. Widths are those of the paper by 8, the embeddings' own is kept. `momentum`
is that of the paper's run of 300 epochs: its memory of 1 / (1 - tau) steps is a third of an epoch
there (batches of 4096) and about as much of Fashion-MNIST's here (batches of 256). With smaller
data or larger batches lower it in proportion.
"""

from models.encoders.images.encoder import Encoder
from models.layers.heads import mlp
from models.layers.momentum import MomentumCopy
from models.methods.base import Method, StepOutput, two_views
from models.methods.losses import negative_cosine
from models.methods.self_distillation.params import BYOLParams
from models.training.schedules import momentum_to_one


class BYOL(Method):
    """f is the encoder, g the projector, q the predictor, f' and g' the teacher."""

    def __init__(self, params: BYOLParams, encoder: Encoder):
        super().__init__(encoder)
        self.momentum = params.momentum
        hidden, dim = params.projector_hidden, params.projector_dim
        self.projector = mlp(encoder.features_dim, hidden, dim)
        self.predictor = mlp(dim, params.predictor_hidden, dim)
        self.teacher = MomentumCopy(encoder, self.projector)

    def training_step(self, batch: dict) -> StepOutput:
        """Predict what the teacher says of the other view (algorithm 1)."""
        x1, x2 = two_views(batch)
        z1, z2 = self.projector(self.encoder(x1)), self.projector(self.encoder(x2))
        p1, p2 = self.predictor(z1), self.predictor(z2)
        loss1 = 2 + 2 * negative_cosine(p1, self.teacher(x2))
        loss2 = 2 + 2 * negative_cosine(p2, self.teacher(x1))
        return {"loss": loss1 + loss2, "embeddings": z1}

    def after_step(self, progress: float) -> None:
        """Move the teacher towards the online network (equation 1)."""
        momentum = momentum_to_one(self.momentum, progress)
        self.teacher.follow(self.encoder, self.projector, momentum=momentum)
