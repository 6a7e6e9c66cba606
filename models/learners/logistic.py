"""Multinomial logistic regression, solved to the optimum."""

import torch
import torch.nn.functional as F
from torch import Tensor


def fit_logistic(
    features: Tensor,
    labels: Tensor,
    classes: int,
    penalty: float,
    start: tuple[Tensor, Tensor] | None = None,
    tolerance: float = 1e-6,
) -> tuple[Tensor, Tensor]:
    """Minimise cross-entropy + penalty / 2 * ||W||^2 by L-BFGS; the bias goes free.

    scikit-learn's `LogisticRegression(C=1 / (penalty * N))` minimises the same.

    Args:
        features: float64 (N, D); give them a common scale, or the penalty is unfair.
        labels: int64 (N,).
        classes: K; a class without labels is allowed and becomes unlikely.
        penalty: Above 0, so that there is one optimum.
        start: (weight, bias) to start from, for a solution nearby.
        tolerance: Largest entry of the gradient at which the optimum counts as reached.

    Returns:
        Weight (K, D) and bias (K,), float64.
    """
    if start is None:
        start = (features.new_zeros(classes, features.shape[1]), features.new_zeros(classes))
    weight = start[0].clone().requires_grad_()
    bias = start[1].clone().requires_grad_()
    solver = torch.optim.LBFGS(
        [weight, bias],
        max_iter=500,
        tolerance_grad=tolerance,
        tolerance_change=1e-10,
        line_search_fn="strong_wolfe",
    )

    def objective() -> Tensor:
        solver.zero_grad()
        loss = F.cross_entropy(F.linear(features, weight, bias), labels)
        loss = loss + penalty / 2 * weight.square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        solver.step(objective)
    return weight.detach(), bias.detach()


def assign_folds(labels: Tensor, folds: int) -> Tensor:
    """Deal the labels to folds, class by class, in an order drawn from the global generator.

    Returns:
        int64 (N,), the fold where each is held out; -1, never held out, for the only one of
        its class.
    """
    fold = torch.full_like(labels, -1)
    for label in labels.unique():
        members = (labels == label).nonzero().squeeze(1)
        if len(members) > 1:
            order = torch.randperm(len(members)).to(members.device)
            fold[members[order]] = torch.arange(len(members), device=fold.device) % folds
    return fold


def choose_penalty(
    features: Tensor, labels: Tensor, classes: int, penalties: tuple[float, ...], folds: int
) -> float:
    """Choose the penalty with the best held-out log-likelihood.

    The likelihood, not the accuracy: on a few dozen held-out labels accuracy moves in steps
    too coarse to tell neighbours apart, and calibration counts too. Where no class has two
    labels nothing can be held out, and the largest penalty is the safe choice.
    """
    if len(penalties) == 1:
        return penalties[0]
    strong_to_weak = sorted(penalties, reverse=True)
    fold = assign_folds(labels, folds)
    losses = dict.fromkeys(strong_to_weak, 0.0)
    for held in range(folds):
        inside, outside = fold != held, fold == held
        if not outside.any():
            continue
        solution = None
        for penalty in strong_to_weak:
            # Each solution starts the next, weaker one: a path costs little more than its end.
            # A rough optimum is enough to rank the penalties.
            solution = fit_logistic(
                features[inside], labels[inside], classes, penalty, solution, tolerance=1e-3
            )
            logits = F.linear(features[outside], *solution)
            losses[penalty] += F.cross_entropy(logits, labels[outside], reduction="sum").item()
    return min(strong_to_weak, key=losses.__getitem__)
