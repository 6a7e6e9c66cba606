"""Small networks that sit on an encoder."""

from torch import Tensor, nn


def projector(features_dim: int, hidden_dim: int, out_dim: int) -> nn.Sequential:
    """Build g(h) = W2 relu(bn(W1 h)) of SimCLR: (N, features_dim) to (N, out_dim)."""
    return nn.Sequential(
        # No bias where batch norm would subtract it again.
        nn.Linear(features_dim, hidden_dim, bias=False),
        nn.BatchNorm1d(hidden_dim),
        nn.ReLU(inplace=True),
        nn.Linear(hidden_dim, out_dim),
    )


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
