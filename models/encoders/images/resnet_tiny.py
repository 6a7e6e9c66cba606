"""A small residual network for small images (He et al. 2016, https://arxiv.org/abs/1512.03385).

The basic block of the paper; the stem has no max-pooling, since at 28 px every pixel is needed.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from models.encoders.params import EncoderParams
from models.errors import ModelError


class Block(nn.Module):
    """Two 3x3 convolutions with batch norm, and a shortcut (projected where the shape changes)."""

    def __init__(self, width_in: int, width: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or width_in != width:
            self.shortcut = nn.Sequential(
                nn.Conv2d(width_in, width, 1, stride, bias=False), nn.BatchNorm2d(width)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, width_in, h, w) to (N, width, ceil(h / stride), ceil(w / stride))."""
        y = F.relu(self.norm1(self.conv1(x)), inplace=True)
        y = self.norm2(self.conv2(y))
        return F.relu(y + self.shortcut(x), inplace=True)


class TinyResNet(nn.Module):
    """Stem and stages; the features are the mean of the last map."""

    def __init__(self, params: EncoderParams, channels: int):
        super().__init__()
        # Kernel 4 at stride 2 looks at every pixel equally often; kernel 3 would not.
        kernel = 3 if params.stem_stride == 1 else 4
        width = params.stem_width
        self.stem = nn.Sequential(
            nn.Conv2d(channels, width, kernel, params.stem_stride, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
        )
        self.stages = nn.ModuleList()
        for stage_width, depth, stride in zip(
            params.widths, params.blocks, params.strides, strict=True
        ):
            stage = nn.Sequential()
            for index in range(depth):
                stage.append(Block(width, stage_width, stride if index == 0 else 1))
                width = stage_width
            self.stages.append(stage)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def feature_maps(self, images: Tensor, stages: int) -> list[Tensor]:
        """Map normalised (N, C, H, W) to the maps (N, c, h, w) of the last stages, in order."""
        maps = [self.stem(images)]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        if stages > len(maps):
            raise ModelError(
                f"resnet_tiny has {len(maps)} stages, stem included, not {stages}; lower stages"
            )
        return maps[-stages:]

    def forward(self, images: Tensor) -> Tensor:
        """Map normalised (N, C, H, W) to (N, D), the last map's mean over positions."""
        return self.feature_maps(images, 1)[0].mean((2, 3))
