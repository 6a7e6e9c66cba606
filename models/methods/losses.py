"""Losses as pure functions of tensors."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def nt_xent(z1: Tensor, z2: Tensor, temperature: float) -> Tensor:
    r"""Compare each view with its partner among all other views of the batch.

    SimCLR, equation 1 (Chen et al. 2020, https://arxiv.org/abs/2002.05709):
    l(i, j) = -log( exp(sim(z_i, z_j) / t) / sum_{k != i} exp(sim(z_i, z_k) / t) ),
    with the cosine as sim, averaged over all 2N positive pairs (i, j), in both orders.

    Args:
        z1: (N, D) embeddings of the first views; any length, they are normalised here.
        z2: (N, D) embeddings of the second views, in the same order.
        temperature: t, above 0.

    Returns:
        A scalar; log(2N - 1) where all embeddings are alike.
    """
    count = z1.shape[0]
    z = F.normalize(torch.cat([z1, z2]), dim=1)  # (2N, D)
    similarity = z @ z.T / temperature  # (2N, 2N)
    similarity.fill_diagonal_(float("-inf"))  # k != i
    partner = torch.arange(2 * count, device=z.device).roll(count)
    return F.cross_entropy(similarity, partner)


def negative_cosine(p: Tensor, z: Tensor) -> Tensor:
    r"""Measure how far predictions point away from their targets.

    SimSiam, equation 1 (Chen and He 2021, https://arxiv.org/abs/2011.10566):
    D(p, z) = -p/||p|| . z/||z||, averaged over the batch.

    Args:
        p: (N, D) predictions.
        z: (N, D) targets.

    Returns:
        A scalar from -1, all alike, to 1.
    """
    return -F.cosine_similarity(p, z, dim=1).mean()


def info_nce(
    queries: Tensor, keys: Tensor, temperature: float, queue: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    r"""Pick, for each query, its own key among other images' keys.

    MoCo, equation 1 (He et al. 2020, https://arxiv.org/abs/1911.05722):
    l(q) = -log( exp(q . k+ / t) / sum_i exp(q . k_i / t) ), all normalised, averaged over queries.

    Args:
        queries: (N, D); any length, they are normalised here.
        keys: (N, D), in the same order; normalised here.
        temperature: t, above 0.
        queue: (K, D) normalised keys of other images; None takes the other keys of the batch.

    Returns:
        The loss, and the share of queries that are nearest to their own key.
    """
    q, k = F.normalize(queries, dim=1), F.normalize(keys, dim=1)
    if queue is None:
        similarity = q @ k.T  # (N, N)
        own = torch.arange(len(q), device=q.device)
    else:
        # Its own key last, so that a tie, as after a collapse, is not a hit.
        similarity = torch.cat([q @ queue.T, (q * k).sum(1, keepdim=True)], dim=1)  # (N, K + 1)
        own = torch.full((len(q),), len(queue), device=q.device)
    nearest = similarity.argmax(dim=1)
    return F.cross_entropy(similarity / temperature, own), (nearest == own).float().mean()


def cross_correlation(z1: Tensor, z2: Tensor) -> Tensor:
    r"""Correlate each dimension of one view with each of the other over the batch.

    Barlow Twins, equation 2 (Zbontar et al. 2021, https://arxiv.org/abs/2103.03230):
    C_ij = sum_b z1_bi z2_bj / (|z1_i| |z2_j|), of columns with mean zero.

    Args:
        z1: (N, D) embeddings of the first views.
        z2: (N, D) embeddings of the second views, in the same order.

    Returns:
        (D, D) in [-1, 1].
    """
    z1, z2 = z1 - z1.mean(0), z2 - z2.mean(0)
    return F.normalize(z1, dim=0).T @ F.normalize(z2, dim=0)


def barlow_twins(correlation: Tensor, redundancy_weight: float) -> Tensor:
    r"""Pull the cross-correlation to the identity.

    Barlow Twins, equation 1: sum_i (1 - C_ii)^2 + lambda sum_i sum_{j != i} C_ij^2.

    Args:
        correlation: C, (D, D).
        redundancy_weight: lambda.
    """
    diagonal = correlation.diagonal()
    off_diagonal = correlation.square().sum() - diagonal.square().sum()
    return (1 - diagonal).square().sum() + redundancy_weight * off_diagonal


def variance_hinge(z: Tensor) -> Tensor:
    r"""Push the standard deviation of each dimension above 1.

    VICReg, equation 1 (Bardes et al. 2022, https://arxiv.org/abs/2105.04906):
    v(Z) = 1/D sum_j max(0, 1 - sqrt(Var(z_j) + 1e-4)).

    Args:
        z: (N, D), N at least 2.
    """
    return F.relu(1 - (z.var(dim=0) + 1e-4).sqrt()).mean()


def covariance_penalty(z: Tensor) -> Tensor:
    r"""Push the covariance of any two dimensions to 0.

    VICReg, equations 3 and 4: c(Z) = 1/D sum_{i != j} C(Z)_ij^2.

    Args:
        z: (N, D), N at least 2.
    """
    count, dim = z.shape
    z = z - z.mean(dim=0)
    covariance = z.T @ z / (count - 1)
    return (covariance.square().sum() - covariance.diagonal().square().sum()) / dim


def epps_pulley(x: Tensor) -> Tensor:
    r"""Test samples of one dimension for the standard normal distribution.

    LeJEPA (Balestriero and LeCun 2025, https://arxiv.org/abs/2511.08544): with the empirical
    characteristic function phi(t) = 1/N sum_n exp(i t x_n),
    N integral |phi(t) - exp(-t^2/2)|^2 exp(-t^2/2) dt, by the trapezoidal rule on 17 points of
    [0, 3], doubled since the integrand is even, as in the authors' code.

    Args:
        x: (N, M), M sets of N samples.

    Returns:
        (M,), near 0 where a set looks normal.
    """
    t = torch.linspace(0, 3, 17, dtype=x.dtype, device=x.device)
    normal = torch.exp(-t.square() / 2)
    angles = x.unsqueeze(2) * t  # (N, M, 17)
    real, imaginary = angles.cos().mean(0), angles.sin().mean(0)
    distance = (real - normal).square() + imaginary.square()
    return 2 * len(x) * torch.trapezoid(distance * normal, t, dim=1)


def sigreg(z: Tensor, directions: Tensor) -> Tensor:
    r"""Pull the distribution of embeddings to an isotropic Gaussian (LeJEPA, SIGReg).

    A distribution is N(0, I) if its projection on every direction is N(0, 1) (Cramer and Wold);
    the mean of `epps_pulley` over some directions stands for all.

    Args:
        z: (N, D).
        directions: (D, M); any length, they are normalised here.
    """
    return epps_pulley(z @ F.normalize(directions, dim=0)).mean()


def psnr(mse: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of a mean squared error, of images in [0, 1]."""
    return -10 * mse.detach().clamp(min=1e-10).log10()


def gaussian_kl(mean: Tensor, log_variance: Tensor) -> Tensor:
    r"""Divergence of a Gaussian from the standard one.

    VAE, appendix B (Kingma and Welling 2014, https://arxiv.org/abs/1312.6114):
    KL = -1/2 sum_j (1 + log sigma_j^2 - mu_j^2 - sigma_j^2), in nats.

    Args:
        mean: mu, (N, D).
        log_variance: log sigma^2, (N, D).

    Returns:
        (N,), 0 where a Gaussian is the standard one.
    """
    return -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum(dim=1)


def gaussian_nll(mse: Tensor, log_variance: Tensor) -> Tensor:
    r"""Negative log density under a Gaussian with one variance, a dimension, in nats.

    1/2 (log(2 pi) + log sigma^2 + mse / sigma^2).

    Args:
        mse: Mean squared distance from the Gaussian's mean, a scalar.
        log_variance: log sigma^2, a scalar.
    """
    return 0.5 * (math.log(2 * math.pi) + log_variance + mse / log_variance.exp())
