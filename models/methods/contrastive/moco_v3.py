"""MoCo v3: An Empirical Study of Training Self-Supervised Vision Transformers.

Chen, Xie, He 2021, https://arxiv.org/abs/2104.02057. Queries q = h(g(f(x))) of one view pick the
momentum encoder's keys k = g'(f'(x)) of the other among all keys of the batch:
L = ctr(q1, k2) + ctr(q2, k1), ctr being InfoNCE times 2 t (algorithm 1). No queue: the batch
holds the negatives. The momentum rises to 1 as half a cosine.

Accepts any encoder. Where it cuts images into patches (ViT), that projection stays random, which
the paper found to make the training stable (section 4.2). Widths are those of the paper by 8, the
embeddings' own is kept; the projector has two layers for any encoder, as in the authors' code for
ResNets. `temperature` is the paper's for ViTs. `momentum` is kept: its memory of 100 steps is a
third of an epoch in the paper (batches of 4096) and about as much of Fashion-MNIST's here (batches
of 256).
"""

from models.encoders.images.encoder import Encoder
from models.layers.heads import mlp
from models.layers.momentum import MomentumCopy
from models.methods.base import Method, StepOutput, two_views
from models.methods.contrastive.params import MoCoV3Params
from models.methods.losses import info_nce
from models.training.schedules import momentum_to_one


class MoCoV3(Method):
    """f is the encoder, g the projector, h the predictor, f' and g' the teacher."""

    def __init__(self, params: MoCoV3Params, encoder: Encoder):
        super().__init__(encoder)
        self.temperature, self.momentum = params.temperature, params.momentum
        for name, weight in encoder.named_parameters():
            if "patch_embed.proj" in name:
                weight.requires_grad_(False)
        hidden, dim = params.projector_hidden, params.projector_dim
        self.projector = mlp(encoder.features_dim, hidden, dim, norm_output=True)
        self.predictor = mlp(dim, params.predictor_hidden, dim, norm_output=True)
        self.teacher = MomentumCopy(encoder, self.projector)

    def training_step(self, batch: dict) -> StepOutput:
        """Contrast each view's query with the teacher's keys of the other (algorithm 1)."""
        x1, x2 = two_views(batch)
        z1, z2 = self.projector(self.encoder(x1)), self.projector(self.encoder(x2))
        loss1, accuracy1 = info_nce(self.predictor(z1), self.teacher(x2), self.temperature)
        loss2, accuracy2 = info_nce(self.predictor(z2), self.teacher(x1), self.temperature)
        return {
            "loss": 2 * self.temperature * (loss1 + loss2),
            "embeddings": z1,
            "metrics": {"positive_accuracy": (accuracy1 + accuracy2) / 2},
        }

    def after_step(self, progress: float) -> None:
        """Move the momentum encoder."""
        momentum = momentum_to_one(self.momentum, progress)
        self.teacher.follow(self.encoder, self.projector, momentum=momentum)
