"""I-JEPA: Self-Supervised Learning from Images with a Joint-Embedding Predictive Architecture.

Assran et al. 2023, https://arxiv.org/abs/2301.08243. From the patches of one large block of an
image, a predictor says what a slow copy of the encoder makes of four small blocks, which are cut
out of the large one. L is the mean squared distance in representation space (section 3, "Loss").
The teacher sees whole images, its tokens are layer-normed (as in the authors' code), and it moves
to m * itself + (1 - m) * the encoder, m rising to 1. No pixel is rebuilt, no view is compared.

Blocks are of the paper's sizes, the same in a batch. Of each context so many patches are drawn as
remain where targets do not overlap: the authors' code cuts a batch's contexts to one length too.

Accepts plain ViTs of timm. The predictor is half as wide as the encoder and half as deep, as for
ViT-B, here of `test_vit` (64 wide, 6 deep); its heads are 32 wide. Prefix tokens, which the paper
has none of, are context. `momentum` and its rise are those of `byol`, for short runs.
"""

import math
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
    keep,
    positions,
    require_vit,
    split,
    transformer,
    whole_patches,
)
from models.layers.momentum import MomentumCopy
from models.methods.base import Method, StepOutput, one_view
from models.methods.masked.params import IJEPAParams
from models.training.schedules import momentum_to_one

TARGETS = 4
TARGET_SCALE, TARGET_RATIO = (0.15, 0.2), (0.75, 1.5)
CONTEXT_SCALE = (0.85, 1.0)


class IJEPA(Method):
    """The encoder of contexts, the teacher of targets, the predictor between them."""

    def __init__(self, params: IJEPAParams, encoder: Encoder):
        super().__init__(encoder)
        vit = require_vit(encoder, "i-jepa")
        self.momentum, dim = params.momentum, params.predictor_dim
        self.teacher = MomentumCopy(encoder)
        self.mask_token = nn.Parameter(torch.randn(dim) * 0.02)
        self.narrow = nn.Linear(vit.embed_dim, dim)
        self.predictor = transformer(dim, params.predictor_depth)
        self.widen = nn.Linear(dim, vit.embed_dim)

    def training_step(self, batch: dict) -> StepOutput:
        """Predict the teacher's tokens of each target block from the context (figure 3)."""
        pixels = whole_patches(self.encoder, one_view(batch))
        tokens = embed(self.encoder, pixels)  # (N, P + L, D)
        grid = grid_of(self.encoder, pixels)
        targets, context = draw_blocks(len(pixels), grid, pixels.device)
        everywhere = self.targets(pixels)
        target = gather(everywhere, targets.flatten(1)).unflatten(1, targets.shape[1:])
        encoded = encode(self.encoder, keep(self.encoder, tokens, context))
        prediction = self._predict(encoded, context, targets, grid)
        return {
            "loss": F.mse_loss(prediction, target),
            "embeddings": encoded.mean(1),
            "metrics": {
                "cosine": F.cosine_similarity(prediction.detach(), target, dim=-1).mean(),
                "target_std": everywhere.std(0).mean(),
                "context_share": torch.tensor(context.shape[1] / everywhere.shape[1]),
            },
        }

    def after_step(self, progress: float) -> None:
        """Move the teacher towards the encoder."""
        self.teacher.follow(self.encoder, momentum=momentum_to_one(self.momentum, progress))

    @torch.no_grad()
    def targets(self, pixels: Tensor) -> Tensor:
        """What the teacher makes of whole images: (N, L, D), each token layer-normed."""
        teacher = cast(Encoder, self.teacher.parts[0])
        tokens = split(teacher, encode(teacher, embed(teacher, pixels)))[1]
        return F.layer_norm(tokens, tokens.shape[-1:])

    def _predict(
        self, encoded: Tensor, context: Tensor, targets: Tensor, grid: tuple[int, int]
    ) -> Tensor:
        """Predict each target block on its own.

        Args:
            encoded: (N, P + K, D), the context.
            context: (N, K) ids.
            targets: (N, B, T) ids.
            grid: Height and width in patches.

        Returns:
            (N, B, T, D).
        """
        count, blocks, size = targets.shape
        where = positions(grid, self.mask_token.shape[0]).to(encoded)
        prefix, seen = split(self.encoder, self.narrow(encoded))
        seen = torch.cat([prefix, seen + where[context]], dim=1)
        asked = (self.mask_token + where[targets]).flatten(0, 1)  # (N * B, T, d)
        answer = self.predictor(torch.cat([seen.repeat_interleave(blocks, 0), asked], dim=1))
        return self.widen(answer[:, -size:]).unflatten(0, (count, blocks))


def draw_blocks(count: int, grid: tuple[int, int], device: torch.device) -> tuple[Tensor, Tensor]:
    """Draw target blocks, and context patches that are in none of them.

    Args:
        count: N images.
        grid: Height and width in patches; L in all.
        device: Where the ids shall be.

    Returns:
        Ids (N, 4, T) of the targets, and (N, L - 4 T) of the context: of its block, and of
        the rest of the image only where that has too few.
    """
    length = math.prod(grid)
    shape = _target_shape(grid)
    # Four of them at most cover 80% of an image, so that context remains.
    targets = _place(count * TARGETS, shape, grid, device).view(count, TARGETS, -1)
    scale = math.sqrt(_uniform(*CONTEXT_SCALE))
    block = _place(count, (round(grid[0] * scale), round(grid[1] * scale)), grid, device)
    order = torch.rand(count, length, device=device)
    order = order.scatter_add(1, block, torch.full_like(order, -1.0)[:, : block.shape[1]])
    order = order.scatter(1, targets.flatten(1), math.inf)
    return targets, order.argsort(1)[:, : length - TARGETS * targets.shape[2]]


def _target_shape(grid: tuple[int, int]) -> tuple[int, int]:
    """Draw height and width of the targets, at most a fifth of all patches in area."""
    largest = int(TARGET_SCALE[1] * math.prod(grid))
    area = _uniform(*TARGET_SCALE) * math.prod(grid)
    ratio = math.exp(_uniform(*(math.log(x) for x in TARGET_RATIO)))
    height = min(max(round(math.sqrt(area * ratio)), 1), grid[0] - 1)
    width = min(max(round(area / height), 1), largest // height, grid[1] - 1)
    return height, width


def _place(
    count: int, shape: tuple[int, int], grid: tuple[int, int], device: torch.device
) -> Tensor:
    """Put blocks of one shape anywhere on the grid: ids (count, h * w)."""
    (height, width), (rows, columns) = shape, grid
    top = torch.randint(rows - height + 1, (count, 1, 1), device=device)
    left = torch.randint(columns - width + 1, (count, 1, 1), device=device)
    y = top + torch.arange(height, device=device).view(1, -1, 1)
    x = left + torch.arange(width, device=device).view(1, 1, -1)
    return (y * columns + x).flatten(1)


def _uniform(low: float, high: float) -> float:
    return low + (high - low) * torch.rand(()).item()
