"""Any model of timm as an encoder, built with random weights and for the image size at hand.

Plain ViTs take views of any size, for which timm resamples their position embeddings.
"""

import difflib
from typing import Any

import timm
import torch.nn.functional as F
from timm.models.resnet import ResNet
from torch import Tensor, nn

from models.encoders.params import EncoderParams
from models.errors import ModelError

SMALL_IMAGE = 64


class TimmNetwork(nn.Module):
    """A timm model without its classifier."""

    def __init__(self, params: EncoderParams, channels: int, size: int):
        super().__init__()
        self.net, self.side = _create(params, channels, size)
        self.built_for = size if _is_fixed_in_size(params) else None
        self.resamples_positions = _is_plain_vit(params)
        if isinstance(self.net, ResNet) and size <= SMALL_IMAGE:
            _use_small_image_stem(self.net, channels)

    def forward(self, images: Tensor) -> Tensor:
        """Map normalised (N, C, H, W) to (N, D) with the model's own pooling."""
        return self.net(self._pad(images))

    def feature_maps(self, images: Tensor, stages: int) -> list[Tensor]:
        """Map normalised (N, C, H, W) to the maps (N, c, h, w) of the last stages, in order.

        Where a family has blocks instead of stages, as ViTs do, those count.
        """
        if len(getattr(self.net, "feature_info", [])) < stages:
            raise ModelError(f"this timm encoder has fewer than {stages} stages; lower stages")
        if not hasattr(self.net, "forward_intermediates"):
            raise ModelError(
                "this timm encoder gives pooled features only; set readout to grid 1, stages 1"
            )
        return self.net.forward_intermediates(
            self._pad(images), indices=stages, output_fmt="NCHW", intermediates_only=True
        )

    def _pad(self, images: Tensor) -> Tensor:
        size = images.shape[-1]
        if self.built_for not in (None, size):
            if self.resamples_positions:
                return images
            raise ModelError(
                f"this timm encoder takes images of {self.built_for} pixels only, not of {size}; "
                "set augmentation.view_size to null",
                {"pretrain.augmentation.view_size": None},
            )
        padding = max(0, self.side - size)
        # Zero is the mean colour here, after normalisation.
        return F.pad(images, (0, padding, 0, padding)) if padding else images


def require_known(name: str) -> None:
    """Raise ModelError, with the nearest names, unless timm has a model of this name."""
    # `is_model` also refuses `hf-hub:...`, which would fetch over the network.
    if not timm.is_model(name):
        known = ["resnet_tiny", *timm.list_models()]
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        hint = f"nearest names: {', '.join(near)}" if near else "see timm.list_models()"
        raise ModelError(f"encoder.name {name!r} is neither resnet_tiny nor in timm; {hint}.")


def _create(params: EncoderParams, channels: int, size: int) -> tuple[Any, int]:
    """Build the timm model; give it and the side to which smaller images must be padded."""
    require_known(params.name)
    options: dict[str, Any] = {"pretrained": False, "in_chans": channels, "num_classes": 0}
    if _is_fixed_in_size(params):
        options["img_size"] = size
        if params.patch_size is not None:
            options["patch_size"] = params.patch_size
    if _is_plain_vit(params):
        options |= {"dynamic_img_size": True, "dynamic_img_pad": True}
    try:
        net = timm.create_model(params.name, **options)
        if isinstance(net, ResNet):
            return net, 0
        side = _side(net, size)
        if side > size and "img_size" in options:
            net = timm.create_model(params.name, **options | {"img_size": side})
        return net, side
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        raise ModelError(
            f"timm cannot build encoder {params.name!r} for {channels}x{size}x{size} images "
            f"({error}); choose another encoder.name, encoder.patch_size or data.size"
        ) from error


def _is_fixed_in_size(params: EncoderParams) -> bool:
    config = timm.get_pretrained_cfg(params.name)
    return config is not None and bool(config.fixed_input_size)


def _is_plain_vit(params: EncoderParams) -> bool:
    maker = timm.models.model_entrypoint(params.name)
    return maker.__module__ == timm.models.vision_transformer.__name__


def _side(net: Any, size: int) -> int:
    """The side to which smaller images must be padded, so that nothing of them is lost.

    timm drops what does not fill a patch (12 of 28 pixels for patches of 16), and ConvNeXt at
    28 px ends with a map of no size at all.
    """
    patch_size = getattr(getattr(net, "patch_embed", None), "patch_size", None)
    if isinstance(patch_size, tuple):
        return size + -size % patch_size[0]
    stages = getattr(net, "feature_info", None)
    return stages[-1]["reduction"] if stages else 0


def _use_small_image_stem(net: Any, channels: int) -> None:
    """Give a ResNet the CIFAR stem (SimCLR, appendix B.9): 3x3 at stride 1, no max-pooling."""
    net.maxpool = nn.Identity()
    if isinstance(net.conv1, nn.Conv2d):
        net.conv1 = nn.Conv2d(channels, net.conv1.out_channels, 3, 1, 1, bias=False)
        nn.init.kaiming_normal_(net.conv1.weight, mode="fan_out", nonlinearity="relu")
    else:
        net.conv1[0].stride = (1, 1)
