"""A map of features in the plane, as UMAP draws it (McInnes et al. 2018, arxiv.org/abs/1802.03426).

The neighbour graph, its weights and the forces are UMAP's; the layout moves all points at once
instead of edge by edge, which a page of torch does for 2,000 points in two seconds (the exact
t-SNE of scikit-learn needs several times as long, and as long again to be imported).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

NEIGHBOURS, STEPS, NEGATIVES = 15, 200, 5
# The kernel 1 / (1 + a d^2b) for min_dist 0.1, as fitted by the umap package.
A, B = 1.577, 0.895


def principal_components(features: Tensor, dims: int) -> Tensor:
    """Project (N, D) on the first `dims` components; signs fixed by the largest loading."""
    centred = (features - features.mean(0)).double()
    _, vectors = torch.linalg.eigh(centred.T @ centred)
    axes = vectors.flip(1)[:, :dims]
    signs = torch.sign(axes.gather(0, axes.abs().argmax(0, keepdim=True)))
    return (centred @ (axes * signs)).float()


def place_in_plane(features: Tensor, seed: int = 0) -> Tensor:
    """Place N feature vectors (N, D) in the plane (N, 2) so that near ones (cosine) stay near.

    The same features and seed give the same bits for the same number of threads. Fewer than
    four points, or one-dimensional features, are placed by their principal components alone.
    """
    normed = torch.nn.functional.normalize(features, dim=1)
    flat = principal_components(normed, 2)
    if flat.shape[1] < 2:
        flat = torch.nn.functional.pad(flat, (0, 2 - flat.shape[1]))
    if len(features) < 4:
        return flat
    source, target, weight = _neighbour_graph(normed, min(NEIGHBOURS, len(features) - 1))
    place = flat / flat.abs().max().clamp_min(1e-12) * 10
    random = torch.Generator().manual_seed(seed)
    for step in range(STEPS):
        # An edge is pulled as often as its weight says.
        pulled = torch.rand(len(weight), generator=random) < weight
        force = _attraction(place, source[pulled], target[pulled])
        force += _repulsion(place, round(NEGATIVES * int(pulled.sum()) / len(place)), random)
        place = place + (1 - step / STEPS) * 0.25 * force.clamp(-8, 8)
    return place - place.mean(0)


def _neighbour_graph(normed: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Fuzzy edges (source, target, weight), both directions; weights in (0, 1]."""
    similarity = (normed @ normed.T).fill_diagonal_(-2)
    best = similarity.topk(k, dim=1)
    distance = (1 - best.values).clamp_min(0).sqrt()
    beyond_first = distance - distance[:, :1]
    # Bisection of each point's scale until its weights add up to log2(k).
    low, high = torch.zeros(len(normed), 1), torch.full((len(normed), 1), 1e3)
    for _ in range(40):
        scale = (low + high) / 2
        too_many = (-beyond_first * scale).exp().sum(1, keepdim=True) > math.log2(max(k, 2))
        low, high = torch.where(too_many, scale, low), torch.where(too_many, high, scale)
    one_way = torch.zeros_like(similarity)
    one_way.scatter_(1, best.indices, (-beyond_first * scale).exp())
    both = one_way + one_way.T - one_way * one_way.T
    source, target = both.nonzero(as_tuple=True)
    return source, target, both[source, target]


def _attraction(place: Tensor, source: Tensor, target: Tensor) -> Tensor:
    apart = place[source] - place[target]
    square = apart.square().sum(1, keepdim=True).clamp_min(1e-9)
    pull = (-2 * A * B * square ** (B - 1) / (1 + A * square**B) * apart).clamp(-4, 4)
    return torch.zeros_like(place).index_add_(0, source, pull)


def _repulsion(place: Tensor, count: int, random: torch.Generator) -> Tensor:
    """Push from `count` random points each: the share of all pairs that a step can afford."""
    others = place[torch.randint(len(place), (len(place), count), generator=random)]
    apart = place[:, None] - others
    square = apart.square().sum(2, keepdim=True)
    return (2 * B / ((0.001 + square) * (1 + A * square**B)) * apart).clamp(-4, 4).sum(1)
