"""Colorization: colorful image colorization.

Zhang, Isola, Efros 2016, https://arxiv.org/abs/1603.08511. The encoder sees an image in grey and a
small head predicts its colours, as classes: a multinomial cross-entropy over quantised chroma at a
quarter of the image's height and width (equation 2), in which rare colours weigh more
(equation 4): w = 1 / ((1 - lambda) p + lambda / Q), scaled so that its mean under p is 1, lambda =
1/2. Regression would answer with the grey mean of all that is possible.

Simpler than the paper: chroma is Cb and Cr of ITU-R BT.601, which are linear in the pixels, and
not a and b of Lab; a colour belongs to the nearest class alone, not to its five nearest; p is the
running mean of the batches', not smoothed. `bins` a side give steps of the paper's size, 10 of
some 220, by 1.5, since a batch has fewer colours. Pictures take the annealed mean of the
prediction (equation 5, T = 0.38), which is enlarged smoothly under the image's own sharp luma.

Accepts any encoder for colour images; grey is repeated in its three channels. The paper's network
is convolutional to the end; here a linear layer spreads the encoder's features over places, so a
readout with a grid, which tells where, colours better than a pooled one.
"""

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.encoders.images.encoder import Encoder
from models.errors import ModelError
from models.methods.base import Method, StepOutput, one_view
from models.methods.generative.decoder import SEED
from models.methods.generative.params import ColorizationParams

# Luma of red, green and blue (ITU-R BT.601), and what scales B - Y and R - Y to [-1/2, 1/2].
LUMA = (0.299, 0.587, 0.114)
BLUE, RED = 1.772, 1.402
# Lambda and T of the paper; and of p, the share of itself that is kept at each step.
UNIFORM, TEMPERATURE, MEMORY = 0.5, 0.38, 0.99


class Colorization(Method):
    """The encoder and a head that gives a distribution over chroma for each place.

    Attributes:
        frequency: p, (Q,).
    """

    frequency: Tensor

    def __init__(self, params: ColorizationParams, encoder: Encoder):
        super().__init__(encoder)
        if encoder.mean.shape[1] != 3:
            raise ModelError("colorization takes colour images; set data.channels to 3")
        self.bins = params.bins
        width = params.head_width
        self.spread = nn.Linear(encoder.features_dim, width * SEED * SEED)
        self.head = nn.Sequential(
            nn.Conv2d(width, width, 3, 1, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, self.bins**2, 1),
        )
        self.register_buffer("frequency", torch.full((self.bins**2,), self.bins**-2))

    def training_step(self, batch: dict) -> StepOutput:
        """Predict the class of each place's colour."""
        x = one_view(batch)
        colours = self.classes(x)
        scores = self.scores(x)
        counts = torch.bincount(colours.flatten(), minlength=self.bins**2)
        self.frequency.lerp_(counts / counts.sum(), 1 - MEMORY)
        errors = F.cross_entropy(scores, colours, reduction="none")
        metrics = {
            "colour_accuracy": (scores.argmax(1) == colours).float().mean(),
            # What the commonest colour alone would reach.
            "commonest_colour": counts.max() / counts.sum(),
        }
        return {"loss": (self.weights()[colours] * errors).mean(), "metrics": metrics}

    def scores(self, images: Tensor) -> Tensor:
        """Logits (N, Q, ceil(H / 4), ceil(W / 4)) of images of which the luma alone is seen."""
        features = self.encoder(luma(images).expand(-1, 3, -1, -1))
        places = F.relu(self.spread(features)).unflatten(1, (-1, SEED, SEED))
        return self.head(F.interpolate(places, size=_quarter(images), mode="bilinear"))

    def classes(self, images: Tensor) -> Tensor:
        """The nearest class of the mean chroma of each place: (N, ceil(H / 4), ceil(W / 4))."""
        blue, red = F.adaptive_avg_pool2d(chroma(images), _quarter(images)).unbind(1)
        steps = [((part + 0.5) * self.bins).long().clamp(0, self.bins - 1) for part in (blue, red)]
        return steps[0] * self.bins + steps[1]

    def weights(self) -> Tensor:
        """Of each class, by how rare it is (equation 4)."""
        weights = 1 / ((1 - UNIFORM) * self.frequency + UNIFORM / self.bins**2)
        return weights / (self.frequency * weights).sum()

    def colours(self) -> Tensor:
        """Chroma of each class: (Q, 2)."""
        middles = (torch.arange(self.bins, device=self.frequency.device) + 0.5) / self.bins - 0.5
        return torch.cartesian_prod(middles, middles)

    def pictures(self, images: Tensor) -> Mapping[str, Tensor]:
        """The images in grey, and in the colours that are predicted."""
        likely = (self.scores(images) / TEMPERATURE).softmax(dim=1)
        means = torch.einsum("nqhw,qc->nchw", likely, self.colours())
        smooth = F.interpolate(means, size=images.shape[2:], mode="bilinear")
        grey = luma(images)
        return {"grey": grey.expand_as(images), "coloured": to_rgb(grey, smooth)}


def luma(images: Tensor) -> Tensor:
    """Y of RGB images (N, 3, H, W): (N, 1, H, W) in [0, 1]."""
    return (images * images.new_tensor(LUMA).view(3, 1, 1)).sum(1, keepdim=True)


def chroma(images: Tensor) -> Tensor:
    """Cb and Cr of RGB images (N, 3, H, W): (N, 2, H, W) in [-1/2, 1/2], 0 where they are grey."""
    grey = luma(images)
    return torch.cat([(images[:, 2:] - grey) / BLUE, (images[:, :1] - grey) / RED], dim=1)


def to_rgb(grey: Tensor, colour: Tensor) -> Tensor:
    """The image (N, 3, H, W) of this luma and chroma, cut off where there is no such colour."""
    blue, red = grey + BLUE * colour[:, :1], grey + RED * colour[:, 1:]
    green = (grey - LUMA[0] * red - LUMA[2] * blue) / LUMA[1]
    return torch.cat([red, green, blue], dim=1).clamp(0, 1)


def _quarter(images: Tensor) -> tuple[int, int]:
    height, width = images.shape[2:]
    return math.ceil(height / 4), math.ceil(width / 4)
