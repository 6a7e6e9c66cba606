"""The policy on a whole batch at once, in torch, on the device that the batch is on.

Views of one call go through it together, as one batch of all of them: the kernels are called once
for all, and the images become floats once. Each view draws from a stream of its own, so it is the
same without the others (a blurred one but for its last bits).
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F

from data.images.augment import policy
from data.images.augment.augmenter import to_float
from data.images.augment.params import AugmentationParams

GREY = (0.299, 0.587, 0.114)
"""Luma of RGB (ITU-R BT.601), as Pillow, OpenCV and torchvision have it."""


class BatchedAugmenter:
    """See `data.images.augment.augmenter.Augmenter`.

    What is random is drawn on the CPU, whatever the device, so that devices agree on it; only the
    noise on pixels is drawn where the batch is.
    """

    def __init__(self, params: AugmentationParams, size: int, channels: int):
        self._params = params
        self._size = params.view_size or size
        self._channels = channels

    def __call__(self, images: torch.Tensor, *seeds: int) -> torch.Tensor:
        """See `data.images.augment.augmenter.Augmenter`; all views in one pass."""
        drawn = self._draw_all(images, seeds)
        device = images.device
        # Channels apart until the end: colours are then sums of whole planes.
        views = to_float(images).contiguous().repeat(len(seeds), 1, 1, 1)
        if "theta" in drawn:
            views = warp(views, drawn["theta"].to(device), self._size)
        jitter = {name: drawn[name].to(device) for name in policy.JITTER if name in drawn}
        views = _jitter(views, jitter)
        if "grey" in drawn:
            _replace(views, drawn["grey"], _grey_rgb)
        if "blurred" in drawn:
            sigma = drawn["sigma"][drawn["blurred"]].to(device)
            _replace(views, drawn["blurred"], lambda some: blur(some, sigma))
        if "solarized" in drawn:
            _replace(views, drawn["solarized"], _solarized)
        if "noise" in drawn:
            views = drawn["noise"].add_(views).clamp_(0, 1)
        if "erased" in drawn:
            boxes, colours = (drawn[k][drawn["erased"]].to(device) for k in ("boxes", "colours"))
            _replace(views, drawn["erased"], lambda some: erase(some, boxes, colours))
        return views.contiguous(memory_format=torch.channels_last)

    def _draw_all(self, images: torch.Tensor, seeds: Sequence[int]) -> dict[str, torch.Tensor]:
        """What all views draw, one view after the other, each as if it were alone."""
        views = [self._draw(images, torch.Generator().manual_seed(seed)) for seed in seeds]
        return {name: torch.cat([drawn[name] for drawn in views]) for name in views[0]}

    def _draw(self, images: torch.Tensor, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """What one view draws: (N, ...) of each knob that is on, in the order of the knobs."""
        params, count = self._params, len(images)
        drawn = {}
        theta = policy.draw_geometry(params, count, generator)
        if theta is None and self._size != images.shape[1]:
            theta = torch.eye(2, 3).expand(count, 2, 3)
        if theta is not None:
            drawn["theta"] = theta
        drawn |= policy.draw_jitter(params, count, generator)
        if params.grayscale and self._channels == 3:
            drawn["grey"] = policy.chosen(count, params.grayscale, generator)
        if params.blur:
            drawn["blurred"] = policy.chosen(count, params.blur, generator)
            drawn["sigma"] = policy.uniform(count, *params.blur_sigma, generator)
        if params.solarize:
            drawn["solarized"] = policy.chosen(count, params.solarize, generator)
        if params.noise:
            shape = (count, self._channels, self._size, self._size)
            drawn["noise"] = _noise(shape, params.noise, generator, images.device)
        if params.erase:
            drawn["boxes"], drawn["erased"] = policy.draw_erased(params, count, generator)
            drawn["colours"] = torch.rand(count, self._channels, generator=generator)
        return drawn


def warp(images: torch.Tensor, theta: torch.Tensor, size: int) -> torch.Tensor:
    """Bilinear resampling of (N, C, H, W) under affine maps (N, 2, 3), mirrored at the border.

    Returns:
        (N, C, size, size).
    """
    grid = _affine_grid(theta, size, size)
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


def _affine_grid(theta: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """``F.affine_grid``, several times faster: that multiplies matrices with an inner size of 3."""
    x = _pixel_centres(width, theta.device) * theta[:, :, 0, None] + theta[:, :, 2, None]
    y = _pixel_centres(height, theta.device) * theta[:, :, 1, None]
    grid = torch.empty(len(theta), height, width, 2, device=theta.device)
    for axis in (0, 1):
        torch.add(x[:, axis, None, :], y[:, axis, :, None], out=grid[..., axis])
    return grid


def _pixel_centres(size: int, device: torch.device) -> torch.Tensor:
    """(size,) from -1 to 1, the borders lying half a pixel outside."""
    return (torch.arange(size, device=device) * 2 + 1) / size - 1


def _replace(
    views: torch.Tensor, applied: torch.Tensor, change: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    """Change only the chosen views, in place: most knobs apply to few."""
    rows = applied.nonzero()[:, 0].to(views.device)
    if len(rows):
        views[rows] = change(views[rows])


def _jitter(views: torch.Tensor, strength: dict[str, torch.Tensor]) -> torch.Tensor:
    """Brightness, contrast, saturation, hue, in this order, each clamped to [0, 1]."""
    factors = {name: value.view(-1, 1, 1, 1) for name, value in strength.items()}
    colours = views.shape[1] == 3
    if "brightness" in factors:
        views.mul_(factors["brightness"]).clamp_(0, 1)
    if "contrast" in factors:
        mean = (_grey(views) if colours else views).mean(dim=(1, 2, 3), keepdim=True)
        factor = factors["contrast"]
        views.mul_(factor).add_(mean * (1 - factor)).clamp_(0, 1)
    if "saturation" in factors and colours:
        views = torch.lerp(_grey(views), views, factors["saturation"]).clamp_(0, 1)
    if "hue" in factors and colours:
        views = shift_hue(views, strength["hue"])
    return views


def _grey(views: torch.Tensor) -> torch.Tensor:
    red, green, blue = views.unbind(1)
    grey = red * GREY[0]
    return grey.add_(green, alpha=GREY[1]).add_(blue, alpha=GREY[2]).unsqueeze(1)


def _grey_rgb(views: torch.Tensor) -> torch.Tensor:
    return _grey(views).expand_as(views)


def _solarized(views: torch.Tensor) -> torch.Tensor:
    return torch.where(views >= 0.5, 1 - views, views)


def shift_hue(views: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """Turn the hue of (N, 3, H, W) by `shift` (N,), in turns of the colour wheel.

    To HSV and back; the way back needs no cases, as each channel is a trapezium over the hue.
    """
    red, green, blue = views.unbind(1)
    value = torch.maximum(torch.maximum(red, green), blue)
    low = torch.minimum(torch.minimum(red, green), blue)
    chroma = value - low
    per_sixth = 1 / chroma.clamp(min=1e-12)
    # Which channel is the largest, as numbers: `where` and a mask take five times as long, and lerp
    # gives its ends exactly.
    largest = torch.empty_like(value)
    torch.eq(value, green, out=largest)
    sixths = torch.lerp(
        ((red - green) * per_sixth).add_(4), ((blue - red) * per_sixth).add_(2), largest
    )
    torch.eq(value, red, out=largest)
    sixths = torch.lerp(sixths, (green - blue) * per_sixth, largest)
    sixths += shift.view(-1, 1, 1) * 6
    sixths -= (sixths / 6).floor_().mul_(6)
    turned = torch.empty_like(views)
    for channel, (centre, sign, offset) in enumerate(((3, 1, -1), (2, -1, 2), (4, -1, 2))):
        trapezium = (sixths - centre).abs_().mul_(sign).add_(offset).clamp_(0, 1)
        torch.addcmul(low, chroma, trapezium, out=turned[:, channel])
    return turned


def blur(views: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """Gaussian blur of square (N, C, S, S), each by its own `sigma` (N,) in pixels.

    A kernel reaches 3.5 standard deviations, as Pillow's and albumentations' do; borders are
    mirrored. Each axis is a product with a banded matrix, which for small images is faster than a
    convolution with a kernel per image.
    """
    weights = blur_matrix(sigma, views.shape[3]).transpose(1, 2)

    def along_last_axis(images: torch.Tensor) -> torch.Tensor:
        return (images.flatten(1, 2) @ weights).view(images.shape)

    return along_last_axis(along_last_axis(views).transpose(2, 3)).transpose(2, 3)


def blur_matrix(sigma: torch.Tensor, size: int) -> torch.Tensor:
    """(N, size, size): row i holds the weights of all pixels in the blurred pixel i."""
    reach = min(int(3.5 * float(sigma.max())), size - 1)
    steps = torch.arange(-reach, reach + 1, device=sigma.device)
    weights = torch.exp(-0.5 * (steps / sigma[:, None]).square())
    weights *= steps.abs() <= (3.5 * sigma[:, None]).floor()
    weights /= weights.sum(dim=1, keepdim=True)
    place = torch.arange(size, device=sigma.device)[:, None] + steps
    place = (size - 1) - ((size - 1) - place.abs()).abs()
    matrix = torch.zeros(len(sigma), size, size, device=sigma.device)
    index = place.expand(len(sigma), -1, -1)
    return matrix.scatter_add_(2, index, weights[:, None, :].expand_as(index))


def _noise(
    shape: Sequence[int], std: float, generator: torch.Generator, device: torch.device
) -> torch.Tensor:
    if device.type != "cpu":
        seed = int(torch.randint(2**62, (), generator=generator))
        generator = torch.Generator(device).manual_seed(seed)
    return torch.empty(shape, device=device).normal_(0, std, generator=generator)


def erase(views: torch.Tensor, boxes: torch.Tensor, colours: torch.Tensor) -> torch.Tensor:
    """Paint over a rectangle (left, top, width, height), in units of the image, in each view.

    A box has one random colour: black alone would look like background, where that is black.
    """
    sides = torch.tensor([views.shape[3], views.shape[2]] * 2, device=views.device)
    left, top, width, height = (boxes * sides).round().unbind(1)
    inside_x = _between(left, width, views.shape[3])[:, None, None, :]
    inside_y = _between(top, height, views.shape[2])[:, None, :, None]
    return torch.where(inside_x & inside_y, colours[:, :, None, None], views)


def _between(start: torch.Tensor, length: torch.Tensor, size: int) -> torch.Tensor:
    places = torch.arange(size, device=start.device)
    return (places >= start[:, None]) & (places < (start + length)[:, None])
