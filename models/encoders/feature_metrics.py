"""Label-free and label-light measures of features, as pure functions."""

import torch
import torch.nn.functional as F
from torch import Tensor


def rankme(features: Tensor) -> float:
    """Measure how many directions the features use: exp of the entropy of singular values.

    RankMe (Garrido et al. 2023, https://arxiv.org/abs/2210.02885, equations 1 and 2); features
    are not centred, as in the paper.

    Args:
        features: (N, D).

    Returns:
        From 1 (all on one line) to min(N, D) (isotropic); 0 where all features are zero.
    """
    singular = torch.linalg.svdvals(features.double())
    total = singular.sum()
    if total == 0:
        return 0.0
    share = singular / total
    return torch.special.entr(share).sum().exp().item()


def feature_std(features: Tensor) -> float:
    """Average, over dimensions, the standard deviation of the L2-normalised features.

    SimSiam (Chen and He 2021, https://arxiv.org/abs/2011.10566, section 4.1): 1/sqrt(D) for
    directions spread evenly, 0 when every image gives the same direction.

    Args:
        features: (N, D).
    """
    normal = F.normalize(features.double(), dim=1)
    return normal.std(dim=0, correction=0).mean().item()


def knn_scores(
    bank: Tensor,
    labels: Tensor,
    queries: Tensor | None,
    classes: int,
    k: int = 20,
    temperature: float = 0.07,
    chunk: int = 4096,
) -> Tensor:
    """Let the k nearest neighbours by cosine vote, each with weight exp(cosine / temperature).

    Wu et al. 2018 (https://arxiv.org/abs/1805.01978, section 3.4), as DINO evaluates.

    Args:
        bank: (N, D) features whose labels are known.
        labels: (N,) int64.
        queries: (M, D); None asks for every member of the bank among the others.
        classes: K.
        k: Neighbours; as many as there are where fewer.
        temperature: Smaller values trust the nearest more.
        chunk: Queries compared at once; bounds the memory at chunk * N.

    Returns:
        (M, K) shares of the vote, rows summing to 1.
    """
    bank = F.normalize(bank.float(), dim=1)
    leave_out = queries is None
    queries = bank if queries is None else F.normalize(queries.float(), dim=1)
    k = min(k, len(bank) - leave_out)
    one_hot = F.one_hot(labels, classes).float()
    scores = []
    for start in range(0, len(queries), chunk):
        similarity = queries[start : start + chunk] @ bank.T
        if leave_out:
            similarity.diagonal(offset=start).fill_(-torch.inf)
        nearest = similarity.topk(k, dim=1)
        weight = (nearest.values / temperature).softmax(dim=1)  # (m, k)
        scores.append((weight.unsqueeze(2) * one_hot[nearest.indices]).sum(dim=1))
    return torch.cat(scores)


def knn_accuracy(
    bank: Tensor,
    labels: Tensor,
    queries: Tensor | None = None,
    query_labels: Tensor | None = None,
    k: int = 20,
    temperature: float = 0.07,
) -> float:
    """Give the share of queries that their neighbours in the bank label rightly.

    Without queries, each member of the bank is judged by the others (leave one out). The other
    arguments are those of `knn_scores`.
    """
    truth = labels if query_labels is None else query_labels
    classes = int(max(labels.max(), truth.max())) + 1
    scores = knn_scores(bank, labels, queries, classes, k, temperature)
    return (scores.argmax(dim=1) == truth).float().mean().item()
