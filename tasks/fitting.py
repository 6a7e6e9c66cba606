"""The fits of stage `finetune`: each a function of its seed, several side by side."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from data.augment import build_augmenter
from data.store import PackedStore
from models.encoders import Encoder, build_encoder
from models.learners import fit_classifier
from models.params import EncoderParams
from models.weights import load_weights, save_weights
from tasks.params import FinetuneParams

STORE = Path("artifacts/prepare/store")
PRETRAINED = Path("artifacts/pretrain")

History = list[dict[str, Any]]


@dataclass(frozen=True)
class Fit:
    """One classifier to be learned: picklable, so that fits can run side by side."""

    arm: str
    draw: int
    seed: int
    rows: list[int]
    params: FinetuneParams
    out: Path

    @property
    def weights(self) -> str:
        """Where its weights go, below the stage's folder."""
        return f"classifiers/{self.arm}-{self.draw}.safetensors"


def fit_all(fits: list[Fit], workers: int) -> Iterator[tuple[Fit, History]]:
    """Runs the fits in `workers` processes; gives each with its history as it is done."""
    # Small networks gain nothing from a second thread, but two fits side by side use two cores.
    # A fork server: forking a process that has computed with OpenMP can hang.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tasks.fitting"])
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        pending = {pool.submit(fit_one, fit): fit for fit in fits}
        try:
            for future in as_completed(pending):
                yield pending[future], future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def fit_one(fit: Fit) -> History:
    """Learns one classifier in this process and saves its weights; gives its history."""
    torch.set_num_threads(fit.params.threads)
    store = PackedStore.open(STORE)
    shape = {name: store.manifest[name] for name in ("channels", "size", "mean", "std")}
    arm = fit.params.control if fit.arm == "scratch" else fit.params
    history: History = []
    classifier = fit_classifier(
        arm.learner,
        _encoder(fit, shape),
        torch.from_numpy(store.gather(fit.rows)),
        torch.from_numpy(store.labels(fit.rows)),
        len(store.classes),
        build_augmenter(arm.augmentation, store.manifest["size"], shape["channels"]),
        fit.seed,
        lambda epoch, numbers: history.append(
            {"arm": fit.arm, "draw": fit.draw, "epoch": epoch + 1, **numbers}
        ),
    )
    save_weights(classifier, fit.out / fit.weights)
    return history


def _encoder(fit: Fit, shape: dict[str, Any]) -> Encoder:
    described = json.loads((PRETRAINED / "encoder.json").read_text())
    encoder = build_encoder(EncoderParams(**described["encoder"]), **shape, seed=fit.seed)
    if fit.arm == "pretrained":
        load_weights(encoder, PRETRAINED / "encoder.safetensors")
    return encoder
