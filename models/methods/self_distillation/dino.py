"""DINO: Emerging Properties in Self-Supervised Vision Transformers.

Caron, Touvron, Misra, Jegou, Mairal, Bojanowski, Joulin 2021, https://arxiv.org/abs/2104.14294. A
student g(f(x)) of each crop gives a distribution over K classes, and learns to give what a teacher,
the average of its own weights, gives for the other global view (equations 1 to 3, algorithm 1).
Centring by the running mean of the teacher's outputs (equation 4) keeps one class from taking all,
sharpening by a low teacher temperature keeps all from becoming even. The last layer has weight norm
and stays as it is during the first steps.

Accepts any encoder; one of a fixed input size without small crops. Temperatures are those of the
paper, as is the warm-up's share of a run (30 epochs of 100). The hidden width is its by 8, the
bottleneck by 2, K by 128, as data are fewer; the last layer stays for 100 steps where the paper's
stays for an epoch. The projector has batch norm and relu, as others here, where the paper's has
gelu alone. `momentum` is lower than the paper's 0.996, as runs are shorter, and rises to 1 as
there.
"""

import torch
from torch import Tensor

from models.encoders.images.encoder import Encoder
from models.layers.heads import mlp
from models.layers.momentum import MomentumCopy
from models.methods.base import Method, StepOutput, encode_crops, require_crops
from models.methods.prototypes import Prototypes, in_use, swapped_prediction
from models.methods.self_distillation.params import DINOParams
from models.training.schedules import momentum_to_one


class DINO(Method):
    """f is the encoder, g the projector and the prototypes."""

    centre: Tensor
    teacher_temperature: Tensor

    def __init__(self, params: DINOParams, encoder: Encoder):
        super().__init__(encoder)
        require_crops(encoder, params)
        self.params = params
        hidden, dim = params.projector_hidden, params.projector_dim
        self.projector = mlp(encoder.features_dim, hidden, hidden, dim)
        self.prototypes = Prototypes(dim, params.prototypes, frozen_steps=params.frozen_steps)
        self.teacher = MomentumCopy(encoder, self.projector, self.prototypes)
        self.register_buffer("centre", torch.zeros(params.prototypes))
        self.register_buffer("teacher_temperature", torch.tensor(params.teacher_temperatures[0]))

    def training_step(self, batch: dict) -> StepOutput:
        """Give, for each crop, what the teacher gives for the other global view (algorithm 1)."""
        count = len(batch["views"][0])
        z = self.projector(encode_crops(self.encoder, batch, self.params.local_views))
        scores = self.prototypes(z).unflatten(0, (-1, count))  # (V, N, K)
        log_p = (scores / self.params.temperature).log_softmax(dim=2)
        said = self.teacher(torch.cat(batch["views"][:2]))
        targets = ((said - self.centre) / self.teacher_temperature).softmax(dim=1)
        self.centre = self.centre.lerp(said.mean(dim=0), 1 - self.params.centre_momentum)
        return {
            "loss": swapped_prediction(targets.unflatten(0, (2, count)), log_p),
            "embeddings": z[:count],
            "metrics": {
                "teacher_entropy": torch.special.entr(targets).sum(dim=1).mean(),
                "prototypes_used": in_use(targets),
                "centre_norm": self.centre.norm(),
            },
        }

    def after_step(self, progress: float) -> None:
        """Move the teacher, and warm up its temperature in a line."""
        self.prototypes.step()
        momentum = momentum_to_one(self.params.momentum, progress)
        self.teacher.follow(self.encoder, self.projector, self.prototypes, momentum=momentum)
        first, last = self.params.teacher_temperatures
        share = min(1.0, progress / self.params.warmup) if self.params.warmup else 1.0
        self.teacher_temperature.fill_(first + share * (last - first))
