"""SimMIM: A Simple Framework for Masked Image Modeling.

Xie et al. 2022, https://arxiv.org/abs/2111.09886. Squares of an image are hidden at random; a
one-layer head on the last feature map predicts raw pixels. L is the mean absolute error over
hidden pixels alone (equation 1).

Accepts any encoder: squares are painted over with one learnt colour in the image itself, where the
paper replaces a ViT's tokens. The share that is hidden is the paper's (section 4.1.2), and the
squares are, as there, about a seventh of a side: 4 pixels for images of 28 and 32. What the last
map does not depend on, such as a norm behind it, stays as it is.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.encoders.images.encoder import Encoder
from models.encoders.images.vit_tokens import marked, share_of
from models.methods.base import Method, StepOutput, one_view
from models.methods.masked.params import SimMIMParams
from models.training.eval_mode import evaluating


class SimMIM(Method):
    """The encoder, a colour that hides, and a head of one layer."""

    def __init__(self, params: SimMIMParams, encoder: Encoder):
        super().__init__(encoder)
        self.mask_ratio, self.mask_size = params.mask_ratio, params.mask_size
        self.colour = nn.Parameter(encoder.mean.clone())
        features = _freeze_what_no_map_needs(encoder)
        # Each position of the map predicts a square of so many pixels.
        self.scale = -(-encoder.size // features.shape[2])
        channels = encoder.mean.shape[1]
        self.head = nn.Conv2d(features.shape[1], self.scale**2 * channels, kernel_size=1)

    def training_step(self, batch: dict) -> StepOutput:
        """Predict the hidden pixels of each image (figure 1)."""
        images = one_view(batch)
        masked = self._hide(images)
        features = self.encoder.feature_map(torch.where(masked, self.colour, images))
        difference = self._predict(features, images) - self.encoder.normalise(images)
        loss = mean_on_masked(difference.abs(), masked)
        error = mean_on_masked((difference.detach() * self.encoder.std).square(), masked)
        return {
            "loss": loss,
            "embeddings": features.mean((2, 3)),
            "metrics": {"masked_share": masked.float().mean(), "pixel_mse": error},
        }

    def pictures(self, images: Tensor) -> Mapping[str, Tensor]:
        """Show images with squares masked, and rebuilt, what was visible pasted in."""
        masked = self._hide(images)
        painted = torch.where(masked, self.colour, images)
        prediction = self._predict(self.encoder.feature_map(painted), images)
        rebuilt = prediction * self.encoder.std + self.encoder.mean
        return {
            "masked": painted.clamp(0, 1),
            "rebuilt": torch.where(masked, rebuilt, images).clamp(0, 1),
        }

    def _hide(self, images: Tensor) -> Tensor:
        """Draw the mask (N, 1, H, W), true in hidden squares."""
        count, (height, width) = len(images), images.shape[2:]
        rows, columns = -(-height // self.mask_size), -(-width // self.mask_size)
        shuffled = torch.rand(count, rows * columns, device=images.device).argsort(1)
        ids = shuffled[:, : share_of(rows * columns, self.mask_ratio)]
        squares = marked(ids, rows * columns).view(count, 1, rows, columns)
        pixels = squares.repeat_interleave(self.mask_size, 2).repeat_interleave(self.mask_size, 3)
        return pixels[:, :, :height, :width]

    def _predict(self, features: Tensor, images: Tensor) -> Tensor:
        """Map features (N, c, h, w) to normalised pixels of the images' shape (N, C, H, W)."""
        pixels = F.pixel_shuffle(self.head(features), self.scale)
        if pixels.shape == images.shape:
            return pixels
        return F.interpolate(pixels, images.shape[2:], mode="bilinear")


def mean_on_masked(values: Tensor, masked: Tensor) -> Tensor:
    """Average values (N, C, H, W) where masked (N, 1, H, W) bool is true."""
    return (values * masked).sum() / (masked.sum() * values.shape[1])


def _freeze_what_no_map_needs(encoder: Encoder) -> Tensor:
    """Stop training weights that the feature map does not depend on; give a map (1, c, h, w)."""
    weights = [weight for weight in encoder.parameters() if weight.requires_grad]
    with evaluating(encoder), torch.enable_grad():
        features = encoder.feature_map(encoder.mean.expand(1, -1, encoder.size, encoder.size))
        slopes = torch.autograd.grad(features.sum(), weights, allow_unused=True)
    for weight, slope in zip(weights, slopes, strict=True):
        weight.requires_grad_(slope is not None)
    return features.detach()
