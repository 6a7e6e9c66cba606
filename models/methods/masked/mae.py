"""MAE: Masked Autoencoders Are Scalable Vision Learners.

He et al. 2022, https://arxiv.org/abs/2111.06377. Most patches of an image are hidden at random;
the encoder sees the others only; a light decoder gets these and a mask token in each gap, and
predicts the pixels. L is the mean squared error on hidden patches alone, each patch's pixels
brought to mean 0 and deviation 1 (section 3, "Reconstruction target").

Accepts plain ViTs of timm. The share that is hidden is the paper's. The decoder is half as wide as
the encoder, as for ViT-L, and a third as deep, here of `test_vit` (64 wide, 6 deep); its heads are
32 wide. Prefix tokens, such as the class token, go through both.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from models.encoders.images.encoder import Encoder
from models.encoders.images.vit_tokens import (
    embed,
    encode,
    grid_of,
    keep,
    marked,
    patch_side,
    patchify,
    positions,
    require_vit,
    scatter,
    share_of,
    split,
    transformer,
    unpatchify,
    whole_patches,
)
from models.errors import ModelError
from models.methods.base import Method, StepOutput, one_view
from models.methods.masked.params import MAEParams


class MAE(Method):
    """The encoder, and a decoder that is thrown away."""

    def __init__(self, params: MAEParams, encoder: Encoder):
        super().__init__(encoder)
        vit = require_vit(encoder, "mae")
        self.mask_ratio, dim = params.mask_ratio, params.decoder_dim
        self.side = patch_side(encoder)
        if self.side == 1:
            raise ModelError(
                "mae brings each patch to deviation 1; set pretrain.encoder.patch_size to 2 or "
                "more",
                {"pretrain.encoder.patch_size": 2},
            )
        self.mask_token = nn.Parameter(torch.randn(dim) * 0.02)
        self.narrow = nn.Linear(vit.embed_dim, dim)
        self.decoder = transformer(dim, params.decoder_depth)
        self.to_pixels = nn.Linear(dim, self.side**2 * encoder.mean.shape[1])

    def training_step(self, batch: dict) -> StepOutput:
        """Predict the hidden patches of each image from the others (figure 1)."""
        patches, masked, encoded, prediction = self._autoencode(one_view(batch))
        target, _, deviation = per_patch_normalised(patches)
        loss = loss_on_masked(prediction, target, masked)
        with torch.no_grad():
            scale = deviation * self.encoder.std.flatten().repeat(self.side**2)  # to [0, 1]
            error = loss_on_masked(prediction * scale, target * scale, masked)
        return {
            "loss": loss,
            "embeddings": encoded.mean(1),
            "metrics": {"masked_share": masked.float().mean(), "pixel_mse": error},
        }

    def pictures(self, images: Tensor) -> Mapping[str, Tensor]:
        """Show images with patches masked, and rebuilt.

        What was visible is pasted into the rebuilt ones. The decoder predicts patches of mean 0
        and deviation 1; each hidden one is shown with the mean and deviation that it truly has.
        """
        patches, masked, _, prediction = self._autoencode(images)
        _, mean, deviation = per_patch_normalised(patches)
        rebuilt = prediction * deviation + mean
        hidden = masked.unsqueeze(2)
        return {
            "masked": self._to_images(patches.masked_fill(hidden, 0), images),
            "rebuilt": self._to_images(torch.where(hidden, rebuilt, patches), images),
        }

    def _autoencode(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Hide patches of images (N, C, H, W) and predict them.

        Returns:
            All patches (N, L, M), the mask (N, L) of the hidden ones, the encoded others
            (N, P + K, D), the prediction (N, L, M) of all of them, normalised.
        """
        pixels = whole_patches(self.encoder, images)
        patches = patchify(pixels, self.side)
        visible, masked = self._hide(patches)
        encoded = encode(self.encoder, keep(self.encoder, embed(self.encoder, pixels), visible))
        prediction = self._decode(encoded, visible, grid_of(self.encoder, pixels))
        return patches, masked, encoded, prediction

    def _hide(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        """Draw which patches stay visible, as ids (N, K), and the mask (N, L) of the others."""
        count, length = patches.shape[:2]
        shuffled = torch.rand(count, length, device=patches.device).argsort(1)
        visible = shuffled[:, share_of(length, self.mask_ratio) :]
        return visible, ~marked(visible, length)

    def _decode(self, encoded: Tensor, visible: Tensor, grid: tuple[int, int]) -> Tensor:
        """Predict normalised pixels of all patches: (N, P + K, D) to (N, L, p * p * C)."""
        prefix, seen = split(self.encoder, self.narrow(encoded))
        where = positions(grid, seen.shape[2]).to(seen)
        gaps = self.mask_token.expand(len(seen), len(where), -1)
        tokens = torch.cat([prefix, scatter(gaps, visible, seen) + where], dim=1)
        return self.to_pixels(split(self.encoder, self.decoder(tokens))[1])

    def _to_images(self, patches: Tensor, images: Tensor) -> Tensor:
        """Lay patches out at the images' size, (N, C, H, W) in [0, 1]."""
        height, width = images.shape[2:]
        grid = -(-height // self.side), -(-width // self.side)
        pixels = unpatchify(patches, self.side, grid)[:, :, :height, :width]
        return (pixels * self.encoder.std + self.encoder.mean).clamp(0, 1)


def per_patch_normalised(patches: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Bring each patch (N, L, M) to mean 0 and deviation 1; give its mean and deviation too."""
    mean = patches.mean(2, keepdim=True)
    # The paper's code adds 1e-6 as well: a patch of one colour has no deviation.
    deviation = (patches.var(2, keepdim=True) + 1e-6).sqrt()
    return (patches - mean) / deviation, mean, deviation


def loss_on_masked(prediction: Tensor, target: Tensor, masked: Tensor) -> Tensor:
    """Average the squared error over what is hidden.

    Args:
        prediction: (N, L, M).
        target: (N, L, M).
        masked: (N, L) bool, true where a patch is hidden.
    """
    error = (prediction - target).square().mean(2)
    return (error * masked).sum() / masked.sum()
