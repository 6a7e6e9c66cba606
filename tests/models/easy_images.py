"""A synthetic task any working learner solves: where the bright square is tells the class."""

import torch

from models.encoders.images.encoder import build_encoder
from models.encoders.params import EncoderParams


def easy_images(count, classes=4, size=16, channels=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    images = torch.randint(0, 90, (count, size, size, channels), generator=generator)
    half = size // 2
    for image, label in zip(images, labels.tolist(), strict=True):
        row, column = (label // 2) * half, (label % 2) * half
        image[row : row + half, column : column + half] += 110
    return images.to(torch.uint8), labels


def plain_augment(images, seed):
    generator = torch.Generator().manual_seed(seed)
    floats = images.permute(0, 3, 1, 2).float() / 255
    return (floats + 0.05 * torch.randn(floats.shape, generator=generator)).clamp(0, 1)


def small_encoder(channels=1, seed=0):
    params = EncoderParams(stem_width=8, widths=(16, 16), blocks=(1, 1))
    return build_encoder(params, channels, 16, [0.4] * channels, [0.2] * channels, seed=seed)
