"""Prototypes, and ways to sort embeddings by them without a label."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.errors import ModelError


class Prototypes(nn.Module):
    """Directions with which embeddings are compared by their cosine: (N, D) to (N, K).

    Equals a last linear layer with weight norm, its gains fixed at 1, on normalised embeddings.

    Args:
        dim: D.
        count: K.
        frozen_steps: Steps in which they stay as they are, for embeddings to find their places
            first; `step` counts them.
    """

    steps: Tensor

    def __init__(self, dim: int, count: int, frozen_steps: int):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(count, dim))
        self.frozen_steps = frozen_steps
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, z: Tensor) -> Tensor:
        """Give the cosines; frozen prototypes get a gradient of zero."""
        # No `if`, which would wait for the device.
        frozen = self.steps < self.frozen_steps
        weight = torch.where(frozen, self.weight.detach(), self.weight)
        return F.normalize(z, dim=1) @ F.normalize(weight, dim=1).T

    def step(self) -> None:
        """Count a step."""
        self.steps += 1


@torch.no_grad()
def sinkhorn(scores: Tensor, epsilon: float, iterations: int = 3) -> Tensor:
    r"""Share samples out among prototypes so that all prototypes get as much (Sinkhorn-Knopp).

    SwAV, equations 3 and 4 (Caron et al. 2020, https://arxiv.org/abs/2006.09882): of all Q whose
    rows sum to 1 and whose columns sum to N/K, the one of the greatest
    sum_nk Q_nk scores_nk + epsilon H(Q), which is diag(u) exp(scores / epsilon) diag(v).

    Args:
        scores: (N, K).
        epsilon: Above 0; smaller values give sharper shares.
        iterations: Rounds in which columns, then rows are scaled; rows always sum to 1, columns
            come closer to N/K with each.

    Returns:
        (N, K).
    """
    log_q = scores / epsilon  # in logarithms, so that no epsilon is too small
    for _ in range(iterations):
        log_q = log_q - log_q.logsumexp(dim=0)
        log_q = log_q - log_q.logsumexp(dim=1, keepdim=True)
    return log_q.exp()


def swapped_prediction(targets: Tensor, log_predictions: Tensor) -> Tensor:
    r"""Predict, from each view, what the other views of the same image say.

    SwAV, equations 1 and 2, over many crops (section 3.2), and DINO, equation 3 (Caron et al.
    2021, https://arxiv.org/abs/2104.14294): -1/N sum_n sum_k t_ink log p_vnk, averaged over all
    pairs of a target i and a view v that is not the same.

    Args:
        targets: (I, N, K), rows summing to 1, of the first I views.
        log_predictions: (V, N, K) of all views, in the same order.
    """
    # As one product: the (I, V) sums over images and classes at once.
    agreement = targets.flatten(1) @ log_predictions.flatten(1).T
    pairs = agreement.numel() - len(targets)
    others = agreement.sum() - agreement.diagonal().sum()
    return -others / (pairs * targets.shape[1])


def in_use(shares: Tensor) -> Tensor:
    """Say how many of K classes are in use: exp of the entropy of their mean shares.

    Args:
        shares: (N, K), rows summing to 1.

    Returns:
        A scalar from 1, all in one class, to K, all evenly.
    """
    return torch.special.entr(shares.mean(dim=0)).sum().exp()


@torch.no_grad()
def spherical_kmeans(points: Tensor, clusters: int, iterations: int = 10) -> Tensor:
    """Cluster by cosine (Hornik et al. 2012, https://doi.org/10.18637/jss.v050.i10).

    From points drawn at random; a cluster that loses all its points keeps its centroid.

    Args:
        points: (N, D) normalised.
        clusters: K, at most N.
        iterations: Rounds of assignment and averaging.

    Returns:
        (K, D) normalised centroids.

    Raises:
        ModelError: There are fewer points than clusters.
    """
    if len(points) < clusters:
        raise ModelError(
            f"{len(points)} images cannot make {clusters} clusters; lower pretrain.method.clusters"
        )
    centroids = points[torch.randperm(len(points), device=points.device)[:clusters]]
    for _ in range(iterations):
        sums = torch.zeros_like(centroids).index_add_(0, nearest(points, centroids), points)
        lost = ~sums.any(dim=1, keepdim=True)
        centroids = torch.where(lost, centroids, F.normalize(sums, dim=1))
    return centroids


@torch.no_grad()
def nearest(points: Tensor, centroids: Tensor, chunk: int = 8192) -> Tensor:
    """Find the centroid of the greatest cosine to each point: (N, D) and (K, D) to (N,).

    Both are normalised; `chunk` points at once bound the memory.
    """
    return torch.cat([(part @ centroids.T).argmax(dim=1) for part in points.split(chunk)])
