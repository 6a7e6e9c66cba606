"""data2vec: A General Framework for Self-supervised Learning.

Baevski et al. 2022, https://arxiv.org/abs/2202.03555, for images. The student sees an image with
most patches replaced by a mask token; the teacher, a slow copy, sees all of it. At hidden patches
the student predicts y, the mean of the teacher's last K layers, each normalised (section 3.3),
under the smooth L1 loss of equation 2 with beta = 2, as in the paper's image experiments. The
teacher moves to tau * itself + (1 - tau) * student.

Accepts plain ViTs of timm. Layers are the outputs of whole blocks, as in the authors' code for
images; normalised is layer-normed without scale and shift. K is half of the layers as for ViT-B,
here of `test_vit` (6 deep). Masks are blocks, 60% of the image, as in the paper; blocks join in
random order until the share is reached, the last in part. They are two patches wide, a quarter of
a side of Fashion-MNIST's 7, as BEiT's smallest, 4 of 14. tau is that of `byol`, for short runs.
"""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.encoders.images.encoder import Encoder
from models.encoders.images.vit_tokens import (
    embed,
    encode,
    gather,
    grid_of,
    in_blocks,
    last_layers,
    marked,
    require_vit,
    share_of,
    split,
    whole_patches,
)
from models.errors import ModelError
from models.layers.momentum import MomentumCopy
from models.methods.base import Method, StepOutput, one_view
from models.methods.masked.params import Data2VecParams
from models.training.schedules import momentum_to_one

BETA = 2.0


class Data2Vec(Method):
    """The student is the encoder with a linear head, the teacher its slow copy."""

    def __init__(self, params: Data2VecParams, encoder: Encoder):
        super().__init__(encoder)
        vit = require_vit(encoder, "data2vec")
        require_layers(params.top_layers, len(vit.blocks))
        self.momentum, self.top_layers = params.momentum, params.top_layers
        self.mask_ratio, self.block = params.mask_ratio, params.block
        self.teacher = MomentumCopy(encoder)
        self.mask_token = nn.Parameter(torch.randn(vit.embed_dim) * 0.02)
        self.head = nn.Linear(vit.embed_dim, vit.embed_dim)

    def training_step(self, batch: dict) -> StepOutput:
        """Predict the teacher's layers at the hidden patches (figure 1)."""
        pixels = whole_patches(self.encoder, one_view(batch))
        hidden, masked = self._hide(pixels)
        everywhere = contextual_targets(self.teacher, pixels, self.top_layers)
        tokens = encode(self.encoder, embed(self.encoder, pixels, (masked, self.mask_token)))
        prediction = self.head(gather(split(self.encoder, tokens)[1], hidden))
        target = gather(everywhere, hidden)
        return {
            "loss": F.smooth_l1_loss(prediction, target, beta=BETA),
            "embeddings": tokens.mean(1),
            "metrics": {
                "cosine": F.cosine_similarity(prediction.detach(), target, dim=-1).mean(),
                "target_std": everywhere.std(0).mean(),
                "masked_share": masked.float().mean(),
            },
        }

    def after_step(self, progress: float) -> None:
        """Move the teacher towards the student (equation 1)."""
        self.teacher.follow(self.encoder, momentum=momentum_to_one(self.momentum, progress))

    def _hide(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Draw hidden patches in blocks, as ids (N, K) and as a mask (N, L)."""
        height, width = grid = grid_of(self.encoder, pixels)
        count = share_of(height * width, self.mask_ratio)
        hidden = in_blocks(len(pixels), grid, count, self.block, pixels.device)
        return hidden, marked(hidden, height * width)


def require_layers(wanted: int, depth: int) -> None:
    """Raise ModelError unless the encoder has so many layers."""
    if wanted > depth:
        raise ModelError(
            f"this encoder has {depth} layers, not {wanted}; lower pretrain.method.top_layers",
            {"pretrain.method.top_layers": depth},
        )


@torch.no_grad()
def contextual_targets(teacher: MomentumCopy, pixels: Tensor, top_layers: int) -> Tensor:
    """Average the last layers' tokens, each normalised: (N, C, h * p, w * p) to (N, L, D)."""
    encoder = cast(Encoder, teacher.parts[0])
    layers = last_layers(encoder, embed(encoder, pixels), top_layers)
    return torch.stack([F.layer_norm(x, x.shape[-1:]) for x in layers]).mean(0)
