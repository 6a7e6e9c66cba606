"""PixelCNN decoder: conditional image generation with PixelCNN decoders.

van den Oord et al. 2016, https://arxiv.org/abs/1606.05328. An autoencoder whose decoder is a gated
PixelCNN (section 2.4): the encoder gives h, the decoder predicts each value of the image from h
and from all values before it, row by row, p(x|h) = prod_i p(x_i | x_1, ..., x_i-1, h) (equation 3);
L = -log p(x|h). What nearby pixels tell needs no h, so h is left to say what the image is of.

Gates (equation 4) y = tanh(W_f * x + V_f h) * sigmoid(W_g * x + V_g h); a vertical stack sees the
rows above, a horizontal one what is left of the pixel and, from the vertical one, all above: no
blind spot (section 2.2, figure 2). Of some images, `alone`, the decoder gets no code, h = 0, so
that it is a model of images on its own too. Channels follow each other within a pixel; here the
last layer alone sees the channels before, the paper masks every layer by groups.

Made cheap for small machines, so bits are those of a smaller task than the paper's: the decoder's
image is shrunk to `side`, its values are cut into `levels`, and its layers are few and narrow. The
encoder sees the image whole. `code` is the wider of the paper's two bottlenecks, 10 and 100.
Samples are of the shrunk size, and shown enlarged.

Accepts any encoder.
"""

import math
from collections.abc import Iterator, Mapping
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.encoders.images.encoder import Encoder
from models.encoders.images.vit_tokens import share_of
from models.methods.base import Method, StepOutput, one_view
from models.methods.generative.params import PixelCNNParams


class PixelCNN(Method):
    """The encoder gives h through `code`, the decoder p(x|h)."""

    def __init__(self, params: PixelCNNParams, encoder: Encoder):
        super().__init__(encoder)
        self.side, self.levels, self.alone = params.side, params.levels, params.alone
        self.code = nn.Linear(encoder.features_dim, params.code)
        self.decoder = PixelDecoder(
            encoder.mean.shape[1], params.levels, params.width, params.layers, params.code
        )

    def training_step(self, batch: dict) -> StepOutput:
        """Predict every value; bits are of the shrunk image, a value."""
        x = one_view(batch)
        code = self.code(self.encoder(x))
        levels = self.quantise(x)
        # The first are as random as any, and there is always one of either kind.
        count = len(x)
        alone = torch.arange(count, device=x.device) < share_of(count, self.alone)
        given = code.masked_fill(alone.unsqueeze(1), 0)
        logits = self.decoder(self.values(levels), given)
        nats = F.cross_entropy(logits, levels, reduction="none").mean((1, 2, 3))
        metrics = {
            "bits_per_dim": nats[alone].mean() / math.log(2),
            "bits_per_dim_given": nats[~alone].mean() / math.log(2),
        }
        return {"loss": nats.mean(), "embeddings": code, "metrics": metrics}

    def quantise(self, images: Tensor) -> Tensor:
        """Shrink images (N, C, H, W) and cut them into levels: int64 (N, C, h, w)."""
        if max(images.shape[2:]) > self.side:
            images = F.interpolate(images, size=(self.side, self.side), mode="area")
        return (images * self.levels).long().clamp(max=self.levels - 1)

    def values(self, levels: Tensor) -> Tensor:
        """Levels as the decoder sees them, from -1 to 1."""
        return levels.float() * (2 / (self.levels - 1)) - 1

    def sample(self, code: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Draw images value by value, given codes (N, D): levels (N, *shape)."""
        levels = torch.zeros(len(code), *shape, dtype=torch.long, device=code.device)
        values = self.values(levels)
        channels, height, width = shape
        for row in range(height):
            above = self.decoder.above(values[:, :, : row + 1], code)
            for column in range(width):
                state = self.decoder.along(values[:, :, row : row + 1], above, code)
                here = values[:, :, row : row + 1, column : column + 1]  # a view, to write to
                for channel in range(channels):
                    logits = self.decoder.head(state[..., column : column + 1], here)
                    drawn = torch.multinomial(logits[:, :, channel, 0, 0].softmax(1), 1)[:, 0]
                    levels[:, channel, row, column] = drawn
                    here[:, channel, 0, 0] = self.values(drawn)
        return levels

    def pictures(self, images: Tensor) -> Mapping[str, Tensor]:
        """What the decoder is shown; samples given each image's features, and given nothing."""
        levels = self.quantise(images)
        code = self.code(self.encoder(images))
        drawn = self.sample(torch.cat([code, torch.zeros_like(code)]), tuple(levels.shape[1:]))
        given, alone = (
            F.interpolate(part / (self.levels - 1), size=images.shape[2:])
            for part in drawn.chunk(2)
        )
        shown = F.interpolate(levels / (self.levels - 1), size=images.shape[2:])
        return {
            "shrunk for the decoder": shown,
            "drawn from its features": given,
            "drawn from nothing": alone,
        }


class PixelDecoder(nn.Module):
    """Gives, for each value of an image, logits that depend on the values before it alone."""

    def __init__(self, channels: int, levels: int, width: int, layers: int, code: int):
        super().__init__()
        # 7 x 7 first, then 3 x 3, without what is not yet known.
        first = GatedLayer(channels, width, code, reach=3, first=True)
        others = [GatedLayer(width, width, code, reach=1) for _ in range(layers)]
        self.layers = nn.ModuleList([first, *others])
        self.head = ValueHead(channels, levels, width)

    def forward(self, values: Tensor, code: Tensor) -> Tensor:
        """Map values (N, C, H, W) and codes (N, D) to logits (N, levels, C, H, W)."""
        vertical = horizontal = values
        for layer in self._layers():
            vertical, above = layer.down(vertical, code)
            horizontal = layer.right(horizontal, above, code)
        return self.head(horizontal, values)

    def above(self, values: Tensor, code: Tensor) -> list[Tensor]:
        """What each layer's horizontal stack gets of the rows above the last of `values`."""
        told = []
        for layer in self._layers():
            values, above = layer.down(values, code)
            told.append(above[:, :, -1:])
        return told

    def along(self, row: Tensor, above: list[Tensor], code: Tensor) -> Tensor:
        """The state of the horizontal stack on one row (N, C, 1, W): (N, width, 1, W)."""
        for layer, told in zip(self._layers(), above, strict=True):
            row = layer.right(row, told, code)
        return row

    def _layers(self) -> "Iterator[GatedLayer]":
        return (cast(GatedLayer, layer) for layer in self.layers)


class GatedLayer(nn.Module):
    """One layer of both stacks (figure 2).

    Args:
        in_width: Channels of its input.
        width: Channels of its output.
        code: D of the codes.
        reach: Rows and columns that it looks back.
        first: Whether its input is the image itself, of which the pixel at hand is unknown.
    """

    def __init__(self, in_width: int, width: int, code: int, reach: int, first: bool = False):
        super().__init__()
        self.reach, self.first = reach, first
        back = reach if first else reach + 1
        self.rows = nn.Conv2d(in_width, 2 * width, (back, 2 * reach + 1))
        self.row = nn.Conv2d(in_width, 2 * width, (1, back))
        self.link = nn.Conv2d(2 * width, 2 * width, 1)
        self.mix = nn.Conv2d(width, width, 1)
        self.given = nn.Linear(code, 4 * width, bias=False)

    def down(self, vertical: Tensor, code: Tensor) -> tuple[Tensor, Tensor]:
        """One step of the vertical stack: its state, and what the horizontal one gets."""
        reach = self.reach
        padded = F.pad(vertical, (reach, reach, reach, 0))
        seen = self.rows(padded)[:, :, : vertical.shape[2]]
        given = self.given(code)[:, : seen.shape[1], None, None]
        return gate(seen + given), self.link(seen)

    def right(self, horizontal: Tensor, above: Tensor, code: Tensor) -> Tensor:
        """One step of the horizontal stack."""
        padded = F.pad(horizontal, (self.reach, 0))
        seen = self.row(padded)[..., : horizontal.shape[3]] + above
        state = self.mix(gate(seen + self.given(code)[:, seen.shape[1] :, None, None]))
        return state if self.first else state + horizontal


class ValueHead(nn.Module):
    """Logits of each channel's value, from the state at its pixel and the channels before."""

    order: Tensor

    def __init__(self, channels: int, levels: int, width: int):
        super().__init__()
        self.state = nn.Conv2d(width, channels * width, 1)
        self.values = nn.Conv2d(channels, channels * width, 1, bias=False)
        self.logits = nn.Conv2d(channels * width, channels * levels, 1, groups=channels)
        before = torch.ones(channels, channels).tril(-1).repeat_interleave(width, 0)
        self.register_buffer("order", before[:, :, None, None], persistent=False)

    def forward(self, state: Tensor, values: Tensor) -> Tensor:
        """Map states (N, width, H, W) and values (N, C, H, W) to logits (N, levels, C, H, W)."""
        earlier = F.conv2d(values, self.values.weight * self.order)
        logits = self.logits(F.relu(self.state(state) + earlier))
        return logits.unflatten(1, (values.shape[1], -1)).transpose(1, 2)


def gate(x: Tensor) -> Tensor:
    """Half of the channels under tanh, times the other half under a sigmoid (equation 2)."""
    features, gates = x.chunk(2, dim=1)
    return features.tanh() * gates.sigmoid()
