"""Optimizers with the usual care about weight decay."""

from collections.abc import Iterable
from typing import Any

from torch import nn
from torch.optim import SGD, AdamW, Optimizer


def decay_groups(module: nn.Module, lr: float, weight_decay: float) -> list[dict[str, Any]]:
    """Split trainable parameters in two groups: matrices decay, norms and biases do not.

    Decaying a norm's scale or a bias only fights the normalisation (Goyal et al. 2017, section
    5.3, https://arxiv.org/abs/1706.02677); both are recognised by having one dimension.
    """
    parameters = [p for p in module.parameters() if p.requires_grad]
    matrices = [p for p in parameters if p.ndim > 1]
    vectors = [p for p in parameters if p.ndim <= 1]
    return [
        {"params": matrices, "lr": lr, "weight_decay": weight_decay},
        {"params": vectors, "lr": lr, "weight_decay": 0.0},
    ]


def build_optimizer(name: str, groups: Iterable[dict[str, Any]]) -> Optimizer:
    """Build `adamw` or `sgd` (momentum 0.9), fused: one kernel instead of one per operation."""
    filled = [group for group in groups if group["params"]]
    if name == "sgd":
        return SGD(filled, momentum=0.9, fused=True)
    # 0.99 for the second moment: these runs are short, 0.999 would remember the warm-up.
    return AdamW(filled, betas=(0.9, 0.99), fused=True)
