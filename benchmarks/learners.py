"""The learner's settings against their neighbours, both arms alike, inside the 1% of labels.

    python -m benchmarks.learners [--draws 2] [--folds 2] [--workers 2]

Reads what `prepare` and `pretrain` made. Each candidate differs from params.yaml in one thing and
is scored by cross-validation inside the labels of each draw: no other label is read. So the table
says whether the control is tuned as well as the pretrained model, which its gain depends on.
"""

from __future__ import annotations

import argparse
import json
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from typing import Any

import numpy as np
import torch

from data.images.augment import build_augmenter
from data.randomness import keyed_seed
from data.store.packed_store import PackedStore
from data.store.splits import draw_labels
from models.encoders.images.encoder import Encoder, build_encoder
from models.encoders.params import EncoderParams
from models.encoders.weights import load_weights
from models.learners import FinetuneParams, fit_classifier
from models.learners.logistic import assign_folds
from models.training.randomness import seeded
from tasks.settings.loading import load_params
from tasks.stages.parallel_fits import PRETRAINED, STORE

ARMS = ("pretrained", "scratch")
# A change of (learner, augmentation) each; numbers multiply what params.yaml says.
CANDIDATES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "as in params.yaml": ({}, {}),
    "a third of lr": ({"lr": 1 / 3}, {}),
    "three times lr": ({"lr": 3.0}, {}),
    "half the steps": ({"steps": 0.5}, {}),
    "twice the steps": ({"steps": 2.0}, {}),
    "a quarter of head_penalty": ({"head_penalty": 0.25}, {}),
    "three times head_penalty": ({"head_penalty": 3.0}, {}),
    "readout grid 7, stages 2": ({"readout": {"grid": 7, "stages": 2}}, {}),
    "readout grid 4, stages 2": ({"readout": {"grid": 4, "stages": 2}}, {}),
    "crop_scale [0.75, 1], rotate 5": ({}, {"crop_scale": (0.75, 1.0), "rotate": 5.0}),
    "crop_scale [1, 1], rotate 0": ({}, {"crop_scale": (1.0, 1.0), "rotate": 0.0}),
    "hflip 0.5": ({}, {"hflip": 0.5}),
}


def changed(params: Any, changes: dict[str, Any]) -> Any:
    """The settings with some replaced, or multiplied where the change is a number."""
    raw = params.model_dump(mode="json")
    for key, value in changes.items():
        number = isinstance(value, float) and key not in ("hflip", "rotate")
        raw[key] = type(raw[key])(raw[key] * value) if number else value
    return type(params).model_validate(raw)


def encoder_for(arm: str, store: PackedStore, seed: int) -> Encoder:
    """What the arm starts from."""
    described = json.loads((PRETRAINED / "encoder.json").read_text())
    shape = {name: store.manifest[name] for name in ("channels", "size", "mean", "std")}
    encoder = build_encoder(EncoderParams(**described["encoder"]), **shape, seed=seed)
    if arm == "pretrained":
        load_weights(encoder, PRETRAINED / "encoder.safetensors")
    return encoder


def score(arm: str, candidate: str, draw: int, fold: int, folds: int) -> tuple[int, int]:
    """Right answers on the held-out fold of a draw's labels, and their number."""
    torch.set_num_threads(1)
    store = PackedStore.open(STORE)
    params = load_params().finetune
    own = params.control if arm == "scratch" else params
    learner, augmentation = (
        changed(settings, changes)
        for settings, changes in zip(
            (own.learner, own.augmentation), CANDIDATES[candidate], strict=True
        )
    )
    rows = store.rows("train")
    labels = store.labels(rows)
    drawn = draw_labels(labels, params.label_fraction, params.seed, draw)
    images, targets = torch.from_numpy(store.gather(rows[drawn])), torch.from_numpy(labels[drawn])
    seed = keyed_seed(params.seed, "tuning", draw)
    with seeded(seed, "folds"):
        held = assign_folds(targets, folds) == fold
    classifier = fit_classifier(
        learner,
        encoder_for(arm, store, seed),
        images[~held],
        targets[~held],
        len(store.classes),
        build_augmenter(augmentation, store.manifest["size"], store.manifest["channels"]),
        seed,
    )
    right = classifier.predict_proba(images[held]).argmax(1) == targets[held]
    return int(right.sum()), len(right)


def main() -> None:
    """Score every candidate and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=2)
    parser.add_argument("--folds", type=int, default=2)
    parser.add_argument("--workers", type=int, default=2, help="fits side by side")
    arguments = parser.parse_args()
    if not isinstance(load_params().finetune.learner, FinetuneParams):
        parser.error("finetune.learner.name must be finetune: it is what the candidates vary")
    parts = list(product(range(arguments.draws), range(arguments.folds)))
    print("| " + " | ".join(("change", *ARMS)) + " |\n|---|---|---|")
    with ProcessPoolExecutor(arguments.workers) as pool:
        for candidate in CANDIDATES:
            cells = []
            for arm in ARMS:
                jobs = [pool.submit(score, arm, candidate, *p, arguments.folds) for p in parts]
                right, count = np.sum([job.result() for job in jobs], axis=0)
                cells.append(f"{100 * right / count:.1f}%")
            print(f"| {candidate} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
