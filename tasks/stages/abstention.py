"""When the served model should not answer: a confidence found inside its own few labels.

A model is surer of the labels it learned from than of others, so these cannot tell how often it is
right. Refits on parts of them can, each on the labels that it did not see: they give the share of
images, the most confident first, that is answered well enough. The served model's threshold is the
confidence that the same share of unlabelled images reaches. Shares carry over between the models,
confidences would not: those of a refit on fewer labels and steps are other ones.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from data.randomness import keyed_seed
from data.store.packed_store import PackedStore, evenly_spread
from data.store.shards import images_within
from models.encoders.images.encoder import build_encoder
from models.encoders.params import EncoderParams
from models.encoders.weights import load_weights
from models.learners import FinetuneParams, build_classifier
from models.learners.classifier import Classifier
from models.learners.logistic import assign_folds
from models.training.randomness import seeded
from tasks.stages.parallel_fits import PRETRAINED, Fit

# The refits together take as many steps as one fit: with five draws a tenth of the stage's time.
FOLDS = 4
ARM = "refit"
# Enough to know a share to a point.
UNLABELLED = 2000
CHUNK, CHUNK_BYTES = 512, 64 << 20


@dataclass(frozen=True)
class Refit:
    """A fit on all folds of the served draw's labels but one, and the rows of that one."""

    fit: Fit
    held_out: list[int]


def plan_refits(served: Fit, store: PackedStore) -> list[Refit]:
    """The refits of a served fit; fewer where no class has so many labels, or none.

    Their weights go to the scratch folder.
    """
    rows = np.array(served.rows, dtype=np.int64)
    with seeded(served.seed, "abstention"):
        fold = assign_folds(torch.from_numpy(store.labels(rows)), FOLDS).numpy()
    return [
        Refit(
            replace(
                served,
                arm=ARM,
                draw=number,
                seed=keyed_seed(served.seed, "refit", number),
                rows=rows[fold != number].tolist(),
                params=_shortened(served),
                out=served.scratch / "refits",
            ),
            rows[fold == number].tolist(),
        )
        for number in range(FOLDS)
        if (fold == number).any()
    ]


def find_abstention(
    served: Fit, refits: Iterable[Refit], store: PackedStore, target: float
) -> dict[str, Any]:
    """Below which confidence the served model abstains, as learners.json says.

    Returns:
        `target`; `judged`, how many labels the refits were judged on; `coverage`, the share of
        images that is to be answered; and `threshold`, the least confidence of an answer, null
        where the labels promise the target of none.
    """
    confidence, right = [], []
    for refit in refits:
        rows = np.array(refit.held_out, dtype=np.int64)
        probabilities = _probabilities(refit.fit, store, rows)
        confidence.append(probabilities.max(1))
        right.append(probabilities.argmax(1) == store.labels(rows))
    sure = np.concatenate([np.empty(0, np.float32), *confidence])
    share = answerable(sure, np.concatenate([np.empty(0, bool), *right]), target)
    others = np.setdiff1d(store.rows("train"), served.rows)
    # Where all images are labelled, the refits' own confidences are all there is.
    if len(others):
        some = evenly_spread(others, UNLABELLED)
        sure = _probabilities(served, store, some).max(1)
    return {
        "target": target,
        "judged": sum(map(len, right)),
        "coverage": round(share, 6),
        "threshold": least_confidence(sure, share),
    }


def answerable(confidence: NDArray[np.floating], right: NDArray[np.bool_], target: float) -> float:
    """Largest share, the most confident first, of which `target` may be expected to be right.

    One more mistake is counted than was seen: of nineteen answers without one, 95% is expected,
    and of fewer nothing can be promised.
    """
    order = np.argsort(-confidence, kind="stable")
    answered = np.arange(1, len(order) + 1)
    wrong = np.cumsum(~right[order])
    enough = wrong + 1 <= (1 - target) * (answered + 1) + 1e-9
    # Equal confidences are answered together or not at all.
    enough[:-1] &= np.diff(confidence[order]) < 0
    return float(answered[enough].max(initial=0) / max(1, len(order)))


def least_confidence(confidence: NDArray[np.floating], share: float) -> float | None:
    """The confidence that this share reaches; null for none of them, 0 for all."""
    if share in (0, 1):
        return 0.0 if share else None
    place = max(1, round(share * len(confidence))) - 1
    return float(np.sort(confidence)[::-1][place])


def _shortened(served: Fit) -> Any:
    learner = served.params.learner
    if not isinstance(learner, FinetuneParams):
        return served.params
    changes = {
        "steps": max(1, learner.steps // FOLDS),
        "warmup_steps": learner.warmup_steps // FOLDS,
    }
    return served.params.model_copy(update={"learner": learner.model_copy(update=changes)})


def _probabilities(fit: Fit, store: PackedStore, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    classifier = _classifier(fit, store)
    most = min(
        CHUNK, images_within(CHUNK_BYTES, store.manifest["size"], store.manifest["channels"])
    )
    parts = [
        classifier.predict_proba(torch.from_numpy(store.gather(rows[start : start + most]))).numpy()
        for start in range(0, len(rows), most)
    ]
    return np.concatenate(parts)


def _classifier(fit: Fit, store: PackedStore) -> Classifier:
    shape = {name: store.manifest[name] for name in ("channels", "size", "mean", "std")}
    described = json.loads((PRETRAINED / "encoder.json").read_text(encoding="utf-8"))
    encoder = build_encoder(EncoderParams(**described["encoder"]), **shape, seed=0)
    classifier = build_classifier(fit.params.learner, encoder, len(store.classes))
    load_weights(classifier, fit.out / fit.weights)
    return classifier
