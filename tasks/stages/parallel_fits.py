"""The fits of stage `finetune`: each a function of its seed, several side by side.

A fit that is done is kept in the stage's scratch folder, so that a run that was killed has only
the others left to do. Within a fit there is no checkpoint: it takes seconds, and repeating it gives
the same bytes.
"""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import threading
import zipfile
from collections.abc import Callable, Iterator, MutableSequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data.images.augment import build_augmenter
from data.store.packed_store import PackedStore
from models.encoders.images.encoder import Encoder, build_encoder
from models.encoders.params import EncoderParams
from models.encoders.weights import load_weights, save_weights
from models.learners import FinetuneParams as FineTuning
from models.learners import fit_classifier
from tasks.errors import TaskError
from tasks.settings.schema import FinetuneParams
from tasks.system.atomic_files import keep, kept

STORE = Path("artifacts/prepare/store")
PRETRAINED = Path("artifacts/pretrain")
# Seconds between two looks at how far the fits are.
LOOK_EVERY = 0.5

History = list[dict[str, Any]]

# Steps and loss of each fit, side by side, in memory shared with the stage's process: a worker gets
# it as it starts. Nobody waits for anybody, so a worker that dies holds no lock and no message.
_board: MutableSequence[float] = []


@dataclass(frozen=True)
class Fit:
    """One classifier to be learned: picklable, so that fits can run side by side."""

    arm: str
    draw: int
    seed: int
    rows: list[int]
    params: FinetuneParams
    out: Path
    scratch: Path

    @property
    def weights(self) -> str:
        """Where its weights go, below the stage's folder."""
        return f"classifiers/{self.arm}-{self.draw}.safetensors"

    @property
    def steps(self) -> int:
        """How many it takes; a learner without steps takes one."""
        learner = self.params.learner
        return learner.steps if isinstance(learner, FineTuning) else 1

    @property
    def record(self) -> Path:
        """The name under which it is kept once it is done: weights and history in one file."""
        return self.scratch / f"{self.arm}-{self.draw}.zip"


@dataclass(frozen=True)
class Standing:
    """How far the fits are.

    Attributes:
        done: Steps behind all of them.
        fit: The first that is not finished.
        step: Steps behind it.
        loss: Of the last of them; 0 before it is known.
    """

    done: int
    fit: Fit
    step: int
    loss: float


def fit_all(
    fits: list[Fit],
    workers: int,
    watch: Callable[[Standing], None],
    note: Callable[[str], None],
) -> Iterator[tuple[Fit, History]]:
    """Runs the fits in `workers` processes; gives each with its history as it is done.

    Those that a former run has kept come first and are not run again.

    Args:
        fits: What is to be learned.
        workers: How many side by side.
        watch: Called twice a second with how far they are.
        note: Called with how many a former run has kept, and of damaged records.

    Raises:
        TaskError: A worker was killed.
    """
    # Small networks gain nothing from a second thread, but two fits side by side use two cores.
    # A fork server: forking a process that has computed with OpenMP can hang.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tasks.stages.parallel_fits"])
    board = context.RawArray("d", 2 * len(fits))
    done = {place: found for place, fit in enumerate(fits) if (found := _recall(fit, note))}
    if done:
        note(f"resuming with {len(done)} of {len(fits)} fits done")
    for place, history in done.items():
        board[2 * place] = history[-1]["step"]
        yield fits[place], history
    with ProcessPoolExecutor(workers, context, initializer=_begin, initargs=(board,)) as pool:
        pending = {
            pool.submit(fit_one, fit, place): place
            for place, fit in enumerate(fits)
            if place not in done
        }
        try:
            while pending:
                finished, _ = wait(pending, LOOK_EVERY, return_when=FIRST_COMPLETED)
                for future in finished:
                    yield fits[pending.pop(future)], future.result()
                if pending:
                    watch(_standing(board, fits, next(iter(pending.values()))))
        except BrokenProcessPool:
            raise TaskError(
                "a worker of finetune was killed, most likely for want of memory: lower "
                "finetune.workers or finetune.learner.batch_size, and run again."
            ) from None
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for worker in multiprocessing.active_children():
                worker.terminate()  # else the exit of this process waits for its fit
            raise


def _standing(board: MutableSequence[float], fits: list[Fit], place: int) -> Standing:
    done = int(sum(board[::2]))
    return Standing(done, fits[place], int(board[2 * place]), board[2 * place + 1])


def _begin(board: MutableSequence[float]) -> None:
    """Set up a worker."""
    global _board
    _board = board
    threading.Thread(target=_end_with_the_stage, daemon=True).start()


def _end_with_the_stage() -> None:
    """Without this a stage that was killed leaves its workers waiting for work for ever."""
    stage = multiprocessing.parent_process()
    assert stage is not None
    stage.join()
    os._exit(1)


def fit_one(fit: Fit, place: int) -> History:
    """Learns one classifier in a worker of `fit_all` and saves its weights; gives its history."""
    torch.set_num_threads(fit.params.threads)
    store = PackedStore.open(STORE)
    shape = {name: store.manifest[name] for name in ("channels", "size", "mean", "std")}
    arm = fit.params.control if fit.arm == "scratch" else fit.params
    rows = np.array(fit.rows, dtype=np.int64)
    history: History = []

    def tell(step: int, numbers: dict[str, float]) -> None:
        history.append({"arm": fit.arm, "draw": fit.draw, "step": step, **numbers})
        _board[2 * place : 2 * place + 2] = [step, numbers["loss"]]

    classifier = fit_classifier(
        arm.learner,
        _encoder(fit, shape),
        torch.from_numpy(store.gather(rows)),
        torch.from_numpy(store.labels(rows)),
        len(store.classes),
        build_augmenter(arm.augmentation, store.manifest["size"], shape["channels"]),
        fit.seed,
        tell,
    )
    save_weights(classifier, fit.out / fit.weights)
    _remember(fit, history)
    return history


def _remember(fit: Fit, history: History) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.write(fit.out / fit.weights, "weights")
        archive.writestr("history", json.dumps(history))
    keep(fit.record, packed.getbuffer())


def _recall(fit: Fit, note: Callable[[str], None]) -> History | None:
    """Puts the weights of a fit that was kept where they belong; gives its history."""
    record = next(kept(fit.record, note), None)
    if record is None:
        return None
    weights = fit.out / fit.weights
    weights.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(record) as archive:
        weights.write_bytes(archive.read("weights"))
        history: History = json.loads(archive.read("history"))
    return history


def _encoder(fit: Fit, shape: dict[str, Any]) -> Encoder:
    described = json.loads((PRETRAINED / "encoder.json").read_text())
    encoder = build_encoder(EncoderParams(**described["encoder"]), **shape, seed=fit.seed)
    if fit.arm != "scratch":
        load_weights(encoder, PRETRAINED / "encoder.safetensors")
    return encoder
