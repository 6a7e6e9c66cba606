"""What a policy draws for a batch, as tensors with one entry per image.

The distributions are those of torchvision's and albumentations' transforms of the same names; the
engine that draws image by image is held to these by a test.
"""

import math

import torch

from data.images.augment.params import AugmentationParams

CROP_TRIES = 10
JITTER = ("brightness", "contrast", "saturation", "hue")
ERASE_RATIO = (0.3, 3.3)
"""Width over height of the erased rectangle (Zhong et al. 2017, arXiv:1708.04896)."""


def crops_at_all(params: AugmentationParams) -> bool:
    """Whether the policy crops; a scale of exactly the whole image leaves nothing to draw."""
    return params.crop_scale != (1.0, 1.0)


def uniform(count: int, low: float, high: float, generator: torch.Generator) -> torch.Tensor:
    """(count,) uniform in [low, high)."""
    return torch.rand(count, generator=generator).mul_(high - low).add_(low)


def chosen(count: int, probability: float, generator: torch.Generator) -> torch.Tensor:
    """(count,) bool, each true with `probability`."""
    return torch.rand(count, generator=generator) < probability


def draw_crops(params: AugmentationParams, count: int, generator: torch.Generator) -> torch.Tensor:
    """Crop boxes as (centre x, centre y, width, height) in units of the image; (count, 4).

    Area uniform, aspect log-uniform, position uniform; of ten tries the first that fits, else the
    whole image (or the part of it with the nearest aspect allowed), as torchvision's
    RandomResizedCrop does.
    """
    draws = torch.rand(2, count, CROP_TRIES, generator=generator)
    low, high = params.crop_scale
    area = draws[0].mul_(high - low).add_(low)
    log_low, log_high = map(math.log, params.crop_ratio)
    ratio = draws[1].mul_(log_high - log_low).add_(log_low).exp_()
    width, height = (area * ratio).sqrt_(), (area / ratio).sqrt_()
    fits = (width <= 1) & (height <= 1)
    first = fits.to(torch.uint8).argmax(dim=1, keepdim=True)
    width, height = width.gather(1, first)[:, 0], height.gather(1, first)[:, 0]
    x, y = torch.rand(2, count, generator=generator)
    none = ~fits.any(dim=1)
    aspect = min(max(1.0, params.crop_ratio[0]), params.crop_ratio[1])
    width = width.masked_fill(none, min(1.0, aspect))
    height = height.masked_fill(none, min(1.0, 1 / aspect))
    x, y = x.masked_fill(none, 0.5), y.masked_fill(none, 0.5)
    return torch.stack(
        [width / 2 + x * (1 - width), height / 2 + y * (1 - height), width, height], dim=1
    )


def draw_geometry(
    params: AugmentationParams, count: int, generator: torch.Generator
) -> torch.Tensor | None:
    """Rotation, crop and flips as one affine map; None if the policy has none of them.

    Returns:
        (count, 2, 3): from the view's coordinates to the image's, both in [-1, 1].
    """
    if not (crops_at_all(params) or params.rotate or params.hflip or params.vflip):
        return None
    x_shift, y_shift = torch.zeros(count), torch.zeros(count)
    x_scale, y_scale = torch.ones(count), torch.ones(count)
    if crops_at_all(params):
        x, y, x_scale, y_scale = draw_crops(params, count, generator).unbind(1)
        x_shift, y_shift = 2 * x - 1, 2 * y - 1
    if params.hflip:
        x_scale = torch.where(chosen(count, params.hflip, generator), -x_scale, x_scale)
    if params.vflip:
        y_scale = torch.where(chosen(count, params.vflip, generator), -y_scale, y_scale)
    zero = torch.zeros(count)
    if not params.rotate:
        rows = [x_scale, zero, x_shift, zero, y_scale, y_shift]
        return torch.stack(rows, dim=1).view(count, 2, 3)
    # The image is rotated as a whole, then cropped: a view's corners show what is there, and only
    # beyond the image's own border its mirror image.
    angle = uniform(count, -params.rotate, params.rotate, generator) * (math.pi / 180)
    cos, sin = angle.cos(), angle.sin()
    rows = [
        cos * x_scale, -sin * y_scale, cos * x_shift - sin * y_shift,
        sin * x_scale, cos * y_scale, sin * x_shift + cos * y_shift,
    ]  # fmt: skip
    return torch.stack(rows, dim=1).view(count, 2, 3)


def draw_jitter(
    params: AugmentationParams, count: int, generator: torch.Generator
) -> dict[str, torch.Tensor]:
    """Strength of each colour jitter that the policy has, by its name; (count,) each.

    Factors around 1, the hue as a shift around 0; where jitter is not applied, exactly 1 and 0.
    """
    applied = chosen(count, params.jitter_p, generator)
    draws = {}
    for name in JITTER:
        strength = getattr(params, name)
        if strength and params.jitter_p:
            neutral = 0.0 if name == "hue" else 1.0
            value = uniform(count, neutral - strength, neutral + strength, generator)
            draws[name] = value.masked_fill_(~applied, neutral)
    return draws


def draw_erased(
    params: AugmentationParams, count: int, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Erased rectangles as (left, top, width, height) in units of the image, and which apply.

    Returns:
        (count, 4) and (count,) bool.
    """
    area = uniform(count, *params.erase_scale, generator)
    lowest = torch.clamp(area, min=ERASE_RATIO[0])
    highest = torch.clamp(1 / area, max=ERASE_RATIO[1])
    ratio = lowest + torch.rand(count, generator=generator) * (highest - lowest)
    width, height = (area * ratio).sqrt(), (area / ratio).sqrt()
    left = torch.rand(count, generator=generator) * (1 - width)
    top = torch.rand(count, generator=generator) * (1 - height)
    applies = chosen(count, params.erase, generator)
    return torch.stack([left, top, width, height], dim=1), applies
