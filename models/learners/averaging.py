"""A running average of a model's weights, which generalises better than the last weights.

Mean teacher: Tarvainen and Valpola 2017, https://arxiv.org/abs/1703.01780.
"""

import copy
from typing import Generic, TypeVar

import torch
from torch import nn

Module = TypeVar("Module", bound=nn.Module)


class WeightAverage(Generic[Module]):
    """Keeps `module`, a copy whose weights and statistics trail the model's.

    Args:
        model: Copied.
        memory: Share of the average kept each update; early on less is kept, so that the random
            start does not linger. 0 follows the model exactly.
    """

    def __init__(self, model: Module, memory: float):
        self.module = copy.deepcopy(model).eval()
        self.memory = memory
        self.updates = 0

    @torch.no_grad()
    def update(self, model: Module) -> None:
        """Move the average towards the model; call after each step."""
        self.updates += 1
        memory = min(self.memory, self.updates / (self.updates + 9))
        mine, theirs = [], []
        for average, value in zip(
            self.module.state_dict().values(), model.state_dict().values(), strict=True
        ):
            if average.is_floating_point():
                mine.append(average)
                theirs.append(value)
            else:
                average.copy_(value)
        torch._foreach_lerp_(mine, theirs, 1 - memory)
