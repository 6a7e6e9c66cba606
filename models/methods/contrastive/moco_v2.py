"""MoCo v2: Improved Baselines with Momentum Contrastive Learning.

Chen, Fan, Girshick, He 2020, https://arxiv.org/abs/2003.04297, on MoCo (He et al. 2020,
https://arxiv.org/abs/1911.05722). The query q = g(f(x1)) picks its key k = g'(f'(x2)) among a
queue of the keys of former batches (equation 1); f', g' follow f, g with momentum m (equation 2);
the keys join the queue afterwards.

Shuffled batch norm (section 3.3): statistics that a query and its key share, and the queue does
not, would give the key away. The paper lets each of 8 GPUs norm its own share, shuffled for the
keys; here the batch is encoded in `groups`.

Accepts any encoder. Widths are those of the paper by 8, the embeddings' own is kept. For
Fashion-MNIST in batches of 256, as in the paper for ImageNet, `queue` is 5% of the data (the next
power of two) and the memory of `momentum`, 1 / (1 - m) steps, a fifth of an epoch. Groups are of
64 images, where the paper has 32, since fewer passes are faster.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.encoders.images.encoder import Encoder
from models.layers.heads import mlp
from models.layers.momentum import MomentumCopy, enqueue
from models.methods.base import Method, StepOutput, two_views
from models.methods.contrastive.params import MoCoV2Params
from models.methods.losses import info_nce


class MoCoV2(Method):
    """f is the encoder, g the projector, f' and g' the teacher."""

    queue: Tensor

    def __init__(self, params: MoCoV2Params, encoder: Encoder):
        super().__init__(encoder)
        self.temperature, self.momentum = params.temperature, params.momentum
        self.groups = params.groups
        self.projector = mlp(
            encoder.features_dim, params.projector_hidden, params.projector_dim, norm=False
        )
        self.teacher = MomentumCopy(encoder, self.projector)
        noise = torch.randn(params.queue, params.projector_dim)
        self.register_buffer("queue", F.normalize(noise, dim=1))

    def training_step(self, batch: dict) -> StepOutput:
        """Contrast queries with their keys and the queue (algorithm 1 of MoCo)."""
        x1, x2 = two_views(batch)
        q = self._in_groups(nn.Sequential(self.encoder, self.projector), x1)
        shuffled = torch.randperm(len(x2), device=x2.device)
        k = self._in_groups(self.teacher, x2[shuffled])[shuffled.argsort()]
        loss, accuracy = info_nce(q, k, self.temperature, self.queue)
        self.queue = enqueue(self.queue, F.normalize(k, dim=1))
        return {"loss": loss, "embeddings": q, "metrics": {"positive_accuracy": accuracy}}

    def after_step(self, progress: float) -> None:
        """Move the momentum encoder."""
        self.teacher.follow(self.encoder, self.projector, momentum=self.momentum)

    def _in_groups(self, network: nn.Module, images: Tensor) -> Tensor:
        return torch.cat([network(group) for group in images.chunk(self.groups)])
