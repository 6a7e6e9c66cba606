"""Encoders: images in, features out, normalisation included."""

from collections.abc import Sequence
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.encoders.images.resnet_tiny import TinyResNet
from models.encoders.params import EncoderParams, Readout
from models.errors import ModelError
from models.training.eval_mode import evaluating
from models.training.randomness import seeded


class Encoder(nn.Module):
    """A network with its input normalisation, so that its weights stand on their own.

    Attributes:
        readout: What its features are; methods, probes and neighbours all see these.
        size: Height and width of whole images (views may be of another size).
        features_dim: D, the width of the features.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: nn.Module,
        readout: Readout,
        size: int,
        mean: Sequence[float],
        std: Sequence[float],
    ):
        super().__init__()
        self.network = network
        self.readout = readout
        self.size = size
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, -1, 1, 1))

        self._map_sizes: dict[int, list[tuple[int, int]]] = {}
        self.features_dim = self.read_out_dim(readout)

    def forward(self, images: Tensor) -> Tensor:
        """Map float images (N, C, H, W) in [0, 1] to features (N, D)."""
        return self.read_out(images, self.readout)

    def feature_map(self, images: Tensor) -> Tensor:
        """Map float images (N, C, H, W) in [0, 1] to the last map (N, c, h, w)."""
        return self._feature_maps(images, 1)[-1]

    def read_out(self, images: Tensor, readout: Readout) -> Tensor:
        """Map float images (N, C, H, W) in [0, 1] to the features (N, E) that a head reads.

        Images of any size give as many positions as whole images do.
        """
        if readout == Readout():
            return self.network(self.normalise(images))
        maps = self._feature_maps(images, readout.stages)
        parts = []
        for features, grid in zip(maps, self.grids(readout), strict=True):
            if features.shape[2:] != grid:
                features = F.adaptive_avg_pool2d(features, grid)
            parts.append(features.flatten(1))
        return torch.cat(parts, dim=1)

    def read_out_dim(self, readout: Readout) -> int:
        """E, the width of what `read_out` gives."""
        with evaluating(self):
            return self.read_out(self._blank(), readout).shape[1]

    def grids(self, readout: Readout) -> list[tuple[int, int]]:
        """Rows and columns of positions of each map in what `read_out` gives."""
        side = readout.grid
        return [
            whole if max(whole) <= side else (side, side)
            for whole in self._whole_map_sizes(readout.stages)
        ]

    def takes(self, size: int) -> bool:
        """Whether it takes images of this height and width; some networks take but one size."""
        try:
            with evaluating(self):
                self(self.mean.expand(1, -1, size, size))
        except ModelError:
            return False
        return True

    def _whole_map_sizes(self, stages: int) -> list[tuple[int, int]]:
        """Height and width of the maps of the last stages for images of the encoder's size."""
        if stages not in self._map_sizes:
            with evaluating(self):
                maps = self._feature_maps(self._blank(), stages)
            self._map_sizes[stages] = [(x.shape[2], x.shape[3]) for x in maps]
        return self._map_sizes[stages]

    def _blank(self) -> Tensor:
        """One image of the mean colour, of the encoder's size."""
        return self.mean.expand(1, -1, self.size, self.size)

    def _feature_maps(self, images: Tensor, stages: int) -> list[Tensor]:
        normal = self.normalise(images)
        return self.network.feature_maps(normal, stages)  # type: ignore[operator]

    def normalise(self, images: Tensor) -> Tensor:
        """Map images (N, C, H, W) in [0, 1] to mean 0 and deviation 1, in channels_last."""
        channels = self.mean.shape[1]
        if images.ndim != 4 or images.shape[1] != channels:
            raise ModelError(
                f"this encoder takes images of shape (N, {channels}, H, W), "
                f"got {tuple(images.shape)}; check data.channels"
            )
        # (x - mean) / std in one pass over the images instead of two.
        normal = torch.addcmul(-self.mean / self.std, images, 1 / self.std)
        return normal.contiguous(memory_format=torch.channels_last)


def build_encoder(
    params: EncoderParams,
    channels: int,
    size: int,
    mean: Sequence[float],
    std: Sequence[float],
    seed: int | None = None,
) -> Encoder:
    """Build an encoder with random weights, in channels_last memory.

    Args:
        params: Which network.
        channels: C of the images.
        size: Height and width of the images; timm models are adapted to it.
        mean: Mean of each channel, images in [0, 1].
        std: Standard deviation of each channel.
        seed: Makes the weights a function of itself and leaves the global generator alone; None
            draws from the global generator.

    Raises:
        ModelError: The name is unknown (the nearest are named), timm cannot build it for these
            images, or mean or std do not fit the channels.
    """
    if len(mean) != channels or len(std) != channels or min(std) <= 0:
        raise ModelError(
            f"mean {list(mean)} and std {list(std)} must have {channels} entries and every std "
            "must be positive; prepare the data again or check data.channels"
        )
    with nullcontext() if seed is None else seeded(seed, "encoder"):
        network: nn.Module
        if params.name == "resnet_tiny":
            network = TinyResNet(params, channels)
        else:
            from models.encoders.images.timm_network import (
                TimmNetwork,  # timm takes seconds to import
            )

            network = TimmNetwork(params, channels, size)
    return Encoder(network, params.readout, size, mean, std).to(memory_format=torch.channels_last)
