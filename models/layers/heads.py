"""Small networks that sit on an encoder."""

from torch import Tensor, nn


def mlp(in_dim: int, *widths: int, norm: bool = True, norm_output: bool = False) -> nn.Sequential:
    """Build linear layers with batch norm and relu between them: (N, in_dim) to (N, widths[-1]).

    Args:
        in_dim: Width of the input.
        *widths: Of the hidden layers, then of the output.
        norm: Whether hidden layers have batch norm.
        norm_output: Whether the output has, without scale and shift.
    """
    layers: list[nn.Module] = []
    for width in widths[:-1]:
        # No bias where batch norm would subtract it again.
        layers.append(nn.Linear(in_dim, width, bias=not norm))
        if norm:
            layers.append(nn.BatchNorm1d(width))
        layers.append(nn.ReLU(inplace=True))
        in_dim = width
    layers.append(nn.Linear(in_dim, widths[-1], bias=not norm_output))
    if norm_output:
        layers.append(nn.BatchNorm1d(widths[-1], affine=False))
    return nn.Sequential(*layers)


def fold_scaling(mean: Tensor, std: Tensor, weight: Tensor, bias: Tensor) -> nn.Linear:
    """Fold W ((h - mean) / std) + b into one linear layer on h.

    Args:
        mean: (D,) subtracted from the features.
        std: (D,) that divides them.
        weight: (K, D).
        bias: (K,).
    """
    # In double: mean / std can be large against the logits where a feature hardly varies.
    scaled = weight.double() / std.double()
    shifted = bias.double() - scaled @ mean.double()
    linear = nn.Linear(
        weight.shape[1], weight.shape[0], device=weight.device, dtype=mean.dtype
    ).requires_grad_(False)
    linear.weight.copy_(scaled)
    linear.bias.copy_(shifted)
    return linear.requires_grad_(True)
