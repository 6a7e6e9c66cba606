"""Eval mode that leaves no trace on a training in progress."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from models.training.randomness import seeded


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Hold a module in eval mode; each part returns to the mode it was in, frozen parts too.

    Gradients are off, batch-norm statistics stay as they are, the generators are untouched.
    """
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        with torch.no_grad(), seeded("evaluating"):
            yield
    finally:
        for part, mode in modes:
            part.training = mode
