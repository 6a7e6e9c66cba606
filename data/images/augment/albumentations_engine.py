"""The policy as albumentations transforms, image by image, for CPU workers."""

import numpy as np
import torch

from data.images.augment import policy
from data.images.augment.augmenter import to_float
from data.images.augment.params import AugmentationParams
from data.randomness import keyed_seed


class AlbumentationsAugmenter:
    """See `augmenter.Augmenter`. Each image's draws are keyed by the seed and its position."""

    def __init__(self, params: AugmentationParams, size: int, channels: int):
        import albumentations as A
        import cv2

        # Workers are the parallelism; OpenCV's own threads in each would fight over the cores.
        cv2.setNumThreads(0)
        self._shape = (params.view_size or size, params.view_size or size, channels)
        self._compose = A.Compose(_transforms(params, size, channels))

    def __call__(self, images: torch.Tensor, *seeds: int) -> torch.Tensor:
        """See `data.images.augment.augmenter.Augmenter`."""
        pixels = images.cpu().numpy()
        views = np.empty((len(seeds), len(pixels), *self._shape), np.uint8)
        for number, seed in enumerate(seeds):
            for position, image in enumerate(pixels):
                # Albumentations ignores the global seeds; it takes its own, of 32 bits.
                self._compose.set_random_seed(keyed_seed(seed, position) % 2**32)
                view = self._compose(image=image)["image"]
                views[number, position] = view.reshape(self._shape)
        return to_float(torch.from_numpy(views).flatten(0, 1).to(images.device))


def _transforms(params: AugmentationParams, size: int, channels: int) -> list:
    """The knobs that are on, in the order in which the batched engine applies them."""
    import albumentations as A
    import cv2

    colours = channels == 3
    shape = (params.view_size or size, params.view_size or size)
    jitter = [
        A.ColorJitter(**(_NO_JITTER | {name: (neutral - strength, neutral + strength)}), p=1)
        for name, strength, neutral in (
            ("brightness", params.brightness, 1.0),
            ("contrast", params.contrast, 1.0),
            ("saturation", params.saturation * colours, 1.0),
            ("hue", params.hue * colours, 0.0),
        )
        if strength
    ]
    crop = A.RandomResizedCrop(
        shape,
        scale=params.crop_scale,
        ratio=params.crop_ratio,
        interpolation=cv2.INTER_LINEAR,
        p=1,
    )
    rotate = A.Rotate(limit=(-params.rotate, params.rotate), border_mode=cv2.BORDER_REFLECT, p=1)
    blur = A.GaussianBlur(blur_limit=0, sigma_limit=params.blur_sigma, p=params.blur)
    erase = A.Erasing(
        scale=params.erase_scale,
        ratio=policy.ERASE_RATIO,
        fill="random_uniform",
        p=params.erase,
    )
    knobs = [
        (params.rotate, rotate),
        (policy.crops_at_all(params), crop),
        (not policy.crops_at_all(params) and shape != (size, size), A.Resize(*shape)),
        (params.hflip, A.HorizontalFlip(p=params.hflip)),
        (params.vflip, A.VerticalFlip(p=params.vflip)),
        (jitter and params.jitter_p, A.Sequential(jitter, p=params.jitter_p)),
        (params.grayscale * colours, A.ToGray(p=params.grayscale)),
        (params.blur, blur),
        (params.solarize, A.Solarize(threshold_range=(0.5, 0.5), p=params.solarize)),
        (params.noise, A.GaussNoise(std_range=(params.noise, params.noise), p=1)),
        (params.erase, erase),
    ]
    return [transform for on, transform in knobs if on]


_NO_JITTER = {
    "brightness": (1.0, 1.0),
    "contrast": (1.0, 1.0),
    "saturation": (1.0, 1.0),
    "hue": (0.0, 0.0),
}
