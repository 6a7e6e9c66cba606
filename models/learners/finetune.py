"""Fine-tuning of the whole network, from the head a linear probe found.

LP-FT: Kumar et al. 2022, https://arxiv.org/abs/2202.10054. A random head would first distort the
pretrained features before it is any good; a probe's head does not.
"""

import copy
import math
from collections.abc import Iterator
from itertools import count, islice

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from models.encoders.images.encoder import Encoder
from models.encoders.params import Readout
from models.errors import ModelError
from models.layers.heads import fold_scaling
from models.learners.averaging import WeightAverage
from models.learners.classifier import Classifier
from models.learners.linear_probe import fit_probe
from models.learners.params import FinetuneParams, LinearProbeParams
from models.learners.task import LabelledTask
from models.training.optimizers import build_optimizer, decay_groups
from models.training.randomness import keyed_seed, reseed
from models.training.schedules import warmup_cosine

# How often a fit reports where it is.
REPORTS = 40


class StandardisedClassifier(nn.Module):
    """A classifier in training: batch norm standardises the features before the head.

    It makes one learning rate fit encoders whose features differ in scale; in the end it folds
    into the head.
    """

    def __init__(self, encoder: Encoder, classes: int, readout: Readout):
        super().__init__()
        self.encoder = encoder
        self.readout = readout
        width = encoder.read_out_dim(readout)
        self.norm = nn.BatchNorm1d(width, affine=False)
        self.head = nn.Linear(width, classes)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.to(encoder.mean.device)

    def forward(self, images: Tensor) -> Tensor:
        """Map float images (N, C, H, W) in [0, 1] to logits (N, K)."""
        return self.head(self.norm(self.encoder.read_out(images, self.readout)))

    def folded(self) -> Classifier:
        """Give the classifier that computes the same in eval mode."""
        mean, variance = _statistics(self.norm)
        std = (variance + self.norm.eps).sqrt()
        classifier = Classifier(self.encoder, self.head.out_features, self.readout)
        classifier.head = fold_scaling(mean, std, self.head.weight, self.head.bias)
        return classifier.eval()


def fit(params: FinetuneParams, task: LabelledTask) -> Classifier:
    """Fine-tune on the task; the average of the weights is the result."""
    model = StandardisedClassifier(copy.deepcopy(task.encoder), task.classes, params.readout)
    if params.start_from_probe:
        _start_from_probe(model, params.head_penalty, task)
    optimizer = build_optimizer(
        "adamw",
        decay_groups(model.encoder, params.lr * params.encoder_lr, params.weight_decay)
        + decay_groups(model.head, params.lr, params.weight_decay),
    )
    peaks = [group["lr"] for group in optimizer.param_groups]
    average = WeightAverage(model, params.ema)
    total = torch.zeros((), device=task.device)
    told = 0
    for step, rows in enumerate(islice(_batches(params, task), params.steps)):
        factor = warmup_cosine(step, params.steps, params.warmup_steps)
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * factor
        total += _train_step(model, optimizer, params, task, rows, step)
        average.update(model)
        done = step + 1
        if done % max(1, params.steps // REPORTS) == 0 or done == params.steps:
            loss = total.item() / (done - told)
            if not math.isfinite(loss):
                raise ModelError(
                    f"fine-tuning diverged: the loss is {loss} after step {done}; lower "
                    "finetune.learner.lr (from scratch: finetune.control.learner.lr)"
                )
            task.report(done, {"loss": loss, "lr": params.lr * factor})
            total.zero_()
            told = done
    return average.module.folded()


def _batches(params: FinetuneParams, task: LabelledTask) -> Iterator[Tensor]:
    """Rows of one batch after the other, shuffled again each epoch, without end.

    The few left over in an epoch get their turn in another one.
    """
    batch_size = min(params.batch_size, len(task.images))
    for epoch in count():
        reseed(task.seed, "order", epoch)
        order = torch.randperm(len(task.images))
        for start in range(0, len(order) - batch_size + 1, batch_size):
            yield order[start : start + batch_size]


def _start_from_probe(model: StandardisedClassifier, penalty: float, task: LabelledTask) -> None:
    settings = LinearProbeParams(readout=model.readout, penalties=(penalty,))
    probe = fit_probe(settings, task.encoder, task.images, task.labels, task.classes)
    mean, variance = _statistics(model.norm)
    with torch.no_grad():
        mean.copy_(probe.mean)
        variance.copy_(probe.std.square())
        model.head.weight.copy_(probe.weight)
        model.head.bias.copy_(probe.bias)


def _statistics(norm: nn.BatchNorm1d) -> tuple[Tensor, Tensor]:
    mean, variance = norm.running_mean, norm.running_var
    assert mean is not None
    assert variance is not None
    return mean, variance


def _train_step(
    model: StandardisedClassifier,
    optimizer: Optimizer,
    params: FinetuneParams,
    task: LabelledTask,
    rows: Tensor,
    step: int,
) -> Tensor:
    """Take one step; give its loss, detached and still on the device."""
    images = task.augment(task.images[rows], keyed_seed(task.seed, "augment", step))
    labels = task.labels[rows].to(task.device)
    reseed(task.seed, "step", step)
    model.train()
    with torch.enable_grad():
        logits = model(images.to(task.device))
        loss = F.cross_entropy(logits, labels, label_smoothing=params.label_smoothing)
        # As in the probe's objective: a head on thousands of features overfits a few labels.
        loss = loss + params.head_penalty / 2 * model.head.weight.square().sum()
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return loss.detach()
