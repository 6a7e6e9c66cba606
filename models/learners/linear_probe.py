"""The linear probe: a frozen encoder and logistic regression on its features."""

import copy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.encoders.features import extract_features
from models.encoders.images.encoder import Encoder
from models.layers.heads import fold_scaling
from models.learners.classifier import Classifier
from models.learners.logistic import choose_penalty, fit_logistic
from models.learners.params import LinearProbeParams
from models.learners.task import LabelledTask


@dataclass(frozen=True)
class Probe:
    """Logistic regression on standardised features, float64 on the CPU.

    Attributes:
        mean: (D,) of the labelled features.
        std: (D,) likewise, kept away from 0.
        weight: (K, D), on (features - mean) / std.
        bias: (K,).
        penalty: The one chosen.
        loss: Cross-entropy on the labels it was fitted to.
    """

    mean: Tensor
    std: Tensor
    weight: Tensor
    bias: Tensor
    penalty: float
    loss: float

    def folded(self) -> nn.Linear:
        """Give the same function as one float32 linear layer on the raw features."""
        return fold_scaling(self.mean, self.std, self.weight, self.bias).float()


def fit_probe(
    params: LinearProbeParams, encoder: Encoder, images: Tensor, labels: Tensor, classes: int
) -> Probe:
    """Fit the regression on the features of the labelled images; the encoder stays as it is."""
    features = extract_features(encoder, images, readout=params.readout).double()
    labels = labels.cpu()
    mean, std = features.mean(dim=0), features.std(dim=0, correction=0)
    # A feature that never varies here may vary later; dividing by ~0 would let it rule then.
    std = std + 1e-3 * std.mean() + 1e-12
    standard = (features - mean) / std
    # The best weights lie in the span of the images (the penalty sees only lengths), so with
    # more features than images it is exact, and far faster, to solve in that span.
    span = torch.linalg.qr(standard.T).Q if standard.shape[1] > len(standard) else None
    inputs = standard if span is None else standard @ span
    penalty = choose_penalty(inputs, labels, classes, params.penalties, params.folds)
    weight, bias = fit_logistic(inputs, labels, classes, penalty)
    if span is not None:
        weight = weight @ span.T
    loss = F.cross_entropy(F.linear(standard, weight, bias), labels).item()
    return Probe(mean, std, weight, bias, penalty, loss)


def fit(params: LinearProbeParams, task: LabelledTask) -> Classifier:
    """Fit a probe to the task; reports once, as step 1."""
    probe = fit_probe(params, task.encoder, task.images, task.labels, task.classes)
    classifier = Classifier(copy.deepcopy(task.encoder), task.classes, params.readout)
    classifier.head = probe.folded().to(task.device)
    task.report(1, {"loss": probe.loss, "penalty": probe.penalty})
    return classifier.eval()
