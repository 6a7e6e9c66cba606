"""Inpainting: context encoders, feature learning by inpainting.

Pathak et al. 2016, https://arxiv.org/abs/1604.07379. Parts of the image are removed and filled in
again from what is around them; only what was removed counts: L = mean over removed pixels of
(x - F((1 - M) * x))^2 (equation 1). The paper adds an adversarial loss, which sharpens what is
filled in; its features are learned from the reconstruction loss alone (section 4.2), as here, so
what is filled in is blurred. The border of the hole weighs no more than its middle.

Removed are blocks at random places, together at most about a quarter of the image as in the paper
(section 3.3, where they teach better than the centre does), or its centre, a quarter of it. They
are filled with the mean colour, zero for the network. The paper's channel-wise full connection
between encoder and decoder is a linear layer from the encoder's features here.

Accepts any encoder.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from models.encoders.images.encoder import Encoder
from models.methods.base import Method, StepOutput, one_view
from models.methods.generative.decoder import Decoder
from models.methods.generative.params import InpaintingParams
from models.methods.losses import psnr


class Inpainting(Method):
    """F is the encoder and the decoder, M a mask of what is removed."""

    def __init__(self, params: InpaintingParams, encoder: Encoder):
        super().__init__(encoder)
        self.region, self.blocks = params.region, params.blocks
        channels = encoder.mean.shape[1]
        self.decoder = Decoder(encoder.features_dim, channels, encoder.size, params.decoder_width)

    def training_step(self, batch: dict) -> StepOutput:
        """Fill in what is removed."""
        x = one_view(batch)
        removed = self.draw_holes(x)
        features = self.encoder(self.without(x, removed))
        count = removed.sum() * x.shape[1]
        loss = self.error_in_holes(x, self.decoder(features, x.shape[2:]), removed) / count
        plain = self.error_in_holes(x, self.encoder.mean, removed) / count
        metrics = {
            "masked_psnr": psnr(loss),
            # 0 is no better than the mean colour, 1 is perfect.
            "masked_explained": 1 - loss / plain.clamp(min=1e-8),
            "share_removed": removed.float().mean(),
        }
        return {"loss": loss, "embeddings": features, "metrics": metrics}

    def draw_holes(self, images: Tensor) -> Tensor:
        """Draw what is removed of each image (N, C, H, W), true: (N, 1, H, W)."""
        count, _, height, width = images.shape
        if self.region == "centre":
            corners = torch.full((count, 1, 2), 0.5, device=images.device)
            share = 0.5
        else:
            corners = torch.rand(count, self.blocks, 2, device=images.device)
            share = 0.5 / self.blocks**0.5
        rows = _within(corners[..., 0], height, share)
        columns = _within(corners[..., 1], width, share)
        return (rows.unsqueeze(3) & columns.unsqueeze(2)).any(1, keepdim=True)

    def without(self, images: Tensor, removed: Tensor) -> Tensor:
        """Images with the mean colour where they are removed."""
        return torch.where(removed, self.encoder.mean, images)

    def error_in_holes(self, images: Tensor, filled: Tensor, removed: Tensor) -> Tensor:
        """Sum of squared errors over what is removed."""
        return ((images - filled) * removed).square().sum()

    def pictures(self, images: Tensor) -> Mapping[str, Tensor]:
        """Images with holes, and with the holes filled in."""
        removed = self.draw_holes(images)
        holed = self.without(images, removed)
        filled = self.decoder(self.encoder(holed), images.shape[2:])
        return {"with holes": holed, "filled in": torch.where(removed, filled, images)}


def _within(place: Tensor, side: int, share: float) -> Tensor:
    """Whether each of `side` positions lies in a block: places in [0, 1] (N, B) to (N, B, side)."""
    length = max(1, round(share * side))
    # Places in [0, 1] are spread over all starts at which the block lies within the image.
    start = (place * (side - length + 1)).floor().clamp(max=side - length).unsqueeze(2)
    position = torch.arange(side, device=place.device)
    return (position >= start) & (position < start + length)
