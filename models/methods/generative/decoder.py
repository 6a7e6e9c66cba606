"""A small network that turns a vector into an image."""

import itertools
import math

import torch.nn.functional as F
from torch import Tensor, nn

# Height and width of the map that a vector is spread over first.
SEED = 4


class Decoder(nn.Module):
    """Convolutions with batch norm on ever larger maps, none of them as large as the image.

    The last map has half the image's height and width; each of its positions gives 2 x 2 pixels
    (Shi et al. 2016, https://arxiv.org/abs/1609.05158), which costs a quarter of a convolution on
    the whole image. What is needed to decode is to be learned by the encoder, so this is shallow.

    Args:
        in_dim: D, the width of the vectors.
        channels: C of the images.
        size: Height and width of whole images, which fixes the number of maps.
        width: Channels of the last map; the first has four times as many.
    """

    def __init__(self, in_dim: int, channels: int, size: int, width: int):
        super().__init__()
        steps = max(1, round(math.log2(size / SEED)) - 1)
        widths = [4 * width, *(width * min(4, 2**i) for i in reversed(range(steps)))]
        self.seed = nn.Linear(in_dim, widths[0] * SEED * SEED)
        self.convolutions = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(before, after, 3, 1, 1, bias=False),
                nn.BatchNorm2d(after),
                nn.ReLU(inplace=True),
            )
            for before, after in itertools.pairwise(widths)
        )
        self.pixels = nn.Conv2d(width, 4 * channels, 3, 1, 1)
        # The 2 x 2 pixels alike at first, else a grid stays in the pictures for long (Aitken et al.
        # 2017, https://arxiv.org/abs/1707.02937).
        for tensor in (self.pixels.weight.data, self.pixels.bias.data):  # type: ignore[union-attr]
            tensor.copy_(tensor[::4].repeat_interleave(4, 0))

    def forward(self, vectors: Tensor, size: tuple[int, ...]) -> Tensor:
        """Map (N, D) to images (N, C, *size) in (0, 1), of any height and width."""
        x = F.relu(self.seed(vectors)).unflatten(1, (-1, SEED, SEED))
        for number, convolution in enumerate(self.convolutions):
            shrink = 2 ** (len(self.convolutions) - number)
            x = convolution(
                F.interpolate(x, [math.ceil(side / shrink) for side in size], mode="bilinear")
            )
        whole = F.pixel_shuffle(self.pixels(x), 2)
        return whole[:, :, : size[0], : size[1]].sigmoid()
