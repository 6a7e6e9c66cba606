"""data2vec 2.0: Efficient Self-supervised Learning with Contextualized Target Representations.

Baevski, Babu, Hsu, Auli 2022, https://arxiv.org/abs/2212.07525. The targets of data2vec, for less
(section 3): the student encodes visible patches only, as in MAE; a small convolutional decoder,
not the encoder, fills the gaps; M masks of an image share one pass of the teacher; and what stays
visible, not what is hidden, comes in blocks (inverse block masking). L is the mean squared error
at hidden patches.

Accepts plain ViTs of timm. The share that is hidden is the paper's for ViT-B. K, the layers' norm,
`block` and `momentum` are those of `data2vec`. M is half of the paper's for ViT-B. The decoder is
half as wide as `test_vit` and a third as deep as the paper's 6 layers. Left out is the paper's loss
on the class token, whose weight is 0.01.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.encoders.images.encoder import Encoder
from models.encoders.images.vit_tokens import (
    embed,
    encode,
    grid_of,
    in_blocks,
    keep,
    marked,
    require_vit,
    scatter,
    share_of,
    split,
    whole_patches,
)
from models.layers.momentum import MomentumCopy
from models.methods.base import Method, StepOutput, one_view
from models.methods.masked.data2vec import contextual_targets, require_layers
from models.methods.masked.params import Data2Vec2Params
from models.training.schedules import momentum_to_one

NOISE = 0.01


class Data2Vec2(Method):
    """The student is the encoder with a decoder, the teacher its slow copy."""

    def __init__(self, params: Data2Vec2Params, encoder: Encoder):
        super().__init__(encoder)
        vit = require_vit(encoder, "data2vec-2")
        require_layers(params.top_layers, len(vit.blocks))
        self.momentum, self.top_layers = params.momentum, params.top_layers
        self.mask_ratio, self.block, self.masks = params.mask_ratio, params.block, params.masks
        self.teacher = MomentumCopy(encoder)
        dim = params.decoder_dim
        self.narrow = nn.Linear(vit.embed_dim, dim)
        self.decoder = nn.Sequential(*(ConvLayer(dim) for _ in range(params.decoder_depth)))
        self.head = nn.Linear(dim, vit.embed_dim)

    def training_step(self, batch: dict) -> StepOutput:
        """Predict the teacher's layers at what each of the masks hides (figure 2)."""
        pixels = whole_patches(self.encoder, one_view(batch))
        grid = grid_of(self.encoder, pixels)
        target = contextual_targets(self.teacher, pixels, self.top_layers)  # (N, L, D)
        visible = self._draw_visible(len(pixels), grid, pixels.device)
        tokens = embed(self.encoder, pixels).repeat_interleave(self.masks, 0)
        encoded = encode(self.encoder, keep(self.encoder, tokens, visible))  # (N * M, P + K, D)
        prediction = self._decode(split(self.encoder, encoded)[1], visible, grid)
        masked = ~marked(visible, target.shape[1])
        expected = target.repeat_interleave(self.masks, 0)[masked]
        return {
            "loss": F.mse_loss(prediction[masked], expected),
            "embeddings": encoded[:: self.masks].mean(1),
            "metrics": {
                "cosine": F.cosine_similarity(prediction.detach()[masked], expected).mean(),
                "target_std": target.std(0).mean(),
                "masked_share": masked.float().mean(),
            },
        }

    def after_step(self, progress: float) -> None:
        """Move the teacher towards the student."""
        self.teacher.follow(self.encoder, momentum=momentum_to_one(self.momentum, progress))

    def _draw_visible(self, count: int, grid: tuple[int, int], device: torch.device) -> Tensor:
        """Draw visible patches in blocks, M times for each image: ids (N * M, K)."""
        length = grid[0] * grid[1]
        kept = length - share_of(length, self.mask_ratio)
        return in_blocks(count * self.masks, grid, kept, self.block, device)

    def _decode(self, seen: Tensor, visible: Tensor, grid: tuple[int, int]) -> Tensor:
        """Fill the gaps with noise and predict all patches: (N * M, K, D) to (N * M, L, D)."""
        seen = self.narrow(seen)
        gaps = NOISE * torch.randn(
            len(seen), grid[0] * grid[1], seen.shape[2], dtype=seen.dtype, device=seen.device
        )
        maps = scatter(gaps, visible, seen).transpose(1, 2).unflatten(2, grid)
        return self.head(self.decoder(maps).flatten(2).transpose(1, 2))


class ConvLayer(nn.Module):
    """A 3x3 convolution with layer norm, GELU and a shortcut: (N, D, h, w) to the same shape."""

    def __init__(self, dim: int):
        super().__init__()
        self.conv = nn.Conv2d(dim, dim, kernel_size=3, padding=1)
        self.norm = nn.GroupNorm(1, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Add what neighbouring patches say."""
        return x + F.gelu(self.norm(self.conv(x)))
