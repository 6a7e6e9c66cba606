"""Small images, and a few steps of any method on them."""

import torch

from models.training.optimizers import build_optimizer, decay_groups
from models.training.randomness import seeded
from tests.models.easy_images import easy_images, plain_augment


def images(count=8, channels=1, seed=0):
    return plain_augment(easy_images(count, channels=channels, seed=seed)[0], seed)


def noise(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def output(method, x, seed=0):
    with seeded(seed):
        return method.training_step({"views": [x], "index": torch.arange(len(x))})


def train(method, x, steps, lr=3e-3):
    optimizer = build_optimizer("adamw", decay_groups(method, lr, 0.0))
    for number in range(steps):
        loss = output(method, x, number)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.item()
