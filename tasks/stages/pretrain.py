"""Stage `pretrain`: learn an encoder from all training images without a label.

A run that was killed goes on after its last whole epoch, and its results are the same bytes:
weights, optimizer, schedule and history come from the checkpoint, and all randomness is keyed by
seed, epoch and step.
"""

from __future__ import annotations

import logging
import math
import time
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from data.images.augment.params import AugmentationParams
from data.images.views import ViewsDataModule
from data.packing.census import count_packed
from data.store.packed_store import PackedStore, evenly_spread
from data.store.shards import images_within
from data.store.splits import draw_labels
from models.encoders.batch_norm import measure_norms
from models.encoders.images.encoder import build_encoder
from models.encoders.images.pixels import to_float
from models.encoders.weights import save_weights
from models.errors import UnhealthyError
from models.methods import build_method
from models.methods.base import Method
from models.methods.settings import MultiCropSettings
from models.pretraining.callbacks import CollapseMonitor, EpochHistory, OnlineKNN
from models.pretraining.module import Pretraining
from models.training.eval_mode import evaluating
from models.training.randomness import seeded
from tasks.layout import ARTIFACTS
from tasks.reporting.method_pictures import write_rows
from tasks.settings.fitness import require_fitting
from tasks.settings.schema import PretrainParams
from tasks.stages.checkpoints import EpochCheckpoints, WholeFiles, epochs_done, newest_checkpoint
from tasks.stages.context import Stage, stage

# Images on which health is measured: enough for a stable rank, cheap each epoch, whatever their
# size.
WATCHED, WATCHED_BYTES = 1024, 128 << 20
# Images of which the method shows what it makes: one row of the report's width.
SHOWN = 12


def pretrain(run: Stage) -> None:
    """Trains `pretrain.method` and keeps its encoder."""
    params = run.params.pretrain
    torch.set_num_threads(params.threads)
    store = PackedStore.open(ARTIFACTS / "prepare" / "store")
    shape = {name: store.manifest[name] for name in ("channels", "size", "mean", "std")}
    rows = store.rows("train")
    require_fitting(run.params, count_packed(store))
    encoder = build_encoder(params.encoder, **shape, seed=params.seed)
    method = build_method(params.method, encoder, seed=params.seed)
    method.expect(len(rows))
    data = ViewsDataModule(
        store,
        rows,
        view_policies(params),
        batch_size=params.batch_size,
        seed=params.seed,
        workers=params.workers,
    )
    module = Pretraining(
        method, params.optimizer, params.epochs, len(data.train_dataloader()), seed=params.seed
    )
    history = EpochHistory(on_epoch=lambda row: _tell(run, row))
    watched = _watched(store, rows)
    callbacks = [CollapseMonitor(watched), *_probe(run, store, rows)]
    trainer = _trainer(run, [*callbacks, history, Speedometer(run, params.epochs)])
    checkpoint = newest_checkpoint(run.scratch, run.note)
    if checkpoint is not None:
        run.note(f"resuming after epoch {epochs_done(checkpoint)} of {params.epochs}")
        # Told here, since Lightning builds its first iterator before it knows (its issue 21938).
        data.set_epoch(epochs_done(checkpoint))
    try:
        trainer.fit(module, data, ckpt_path=checkpoint, weights_only=True)
    except SystemExit:  # what Lightning makes of Ctrl-C
        raise KeyboardInterrupt from None
    except UnhealthyError as error:
        raise UnhealthyError(f"{error}. {_last_healthy(run)}") from None
    shown = _images(store, evenly_spread(rows, SHOWN))
    # Drawn before the norms are measured: what draws knows the encoder as it was trained.
    pictures = _pictures(method, shown, params.seed)
    measure_norms(method.encoder, watched)
    save_weights(method.encoder, run.out / "encoder.safetensors")
    write_rows(run.out / "pictures.npz", pictures)
    run.write_json("encoder.json", {**_described(params), **shape})
    epochs = [{**row, "epoch": int(row["epoch"]) + 1} for row in history.rows]
    run.write_csv("history.csv", epochs)
    numbers = {name: round(value, 6) for name, value in epochs[-1].items() if name != "epoch"}
    run.write_json("metrics.json", {k: v for k, v in numbers.items() if math.isfinite(v)})


def _pictures(method: Method, images: torch.Tensor, seed: int) -> dict[str, torch.Tensor]:
    """The images and, in the rows below, what the method makes of them; none if it shows none."""
    device = next(method.parameters()).device
    with evaluating(method), seeded(seed, "pictures"):
        whole = to_float(images, device)
        made = method.pictures(whole)
    rows = {"training images": whole, **made} if made else {}
    return {caption: row.float().cpu() for caption, row in rows.items()}


def view_policies(params: PretrainParams) -> list[AugmentationParams]:
    """How each view is made that the method takes: its views, then its small crops, if any."""
    method, policy = params.method, params.augmentation
    policies = [policy] * method.views
    if isinstance(method, MultiCropSettings):
        crops = {"view_size": method.local_size, "crop_scale": method.local_crop_scale}
        policies += [policy.model_copy(update=crops)] * method.local_views
    return policies


def _described(params: PretrainParams) -> dict[str, Any]:
    """The encoder, and how it was trained, for code that does not read this stage's settings."""
    learned = {"seed", "method", "augmentation", "epochs", "batch_size", "optimizer"}
    return {
        "encoder": params.encoder.model_dump(mode="json"),
        "pretraining": params.model_dump(mode="json", include=learned),
    }


class Speedometer(Callback):
    """Shows epoch, step, loss and images/s while the trainer works."""

    def __init__(self, run: Stage, epochs: int):
        self.run = run
        self.epochs = epochs
        self._shown = ""
        self._since = time.monotonic()
        self._images = 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the batch; twice a second read the loss, which waits for the device."""
        self._images += len(batch["index"])
        elapsed = time.monotonic() - self._since
        if elapsed > 0.5:
            rate = self._images / elapsed
            self._shown = f"loss {float(outputs['loss']):.3f} · {rate:,.0f} images/s"
            self._since, self._images = time.monotonic(), 0
        self.run.progress(
            f"epoch {trainer.current_epoch + 1}/{self.epochs}",
            trainer.global_step,
            int(trainer.estimated_stepping_batches),
            f"step {batch_idx + 1}/{trainer.num_training_batches} · {self._shown}",
        )


def _watched(store: PackedStore, rows: Any) -> torch.Tensor:
    """Images of all kinds: a folder's first ones are all of one class, and alike."""
    shape = store.manifest["size"], store.manifest["channels"]
    return _images(store, evenly_spread(rows, min(WATCHED, images_within(WATCHED_BYTES, *shape))))


def _images(store: PackedStore, rows: Any) -> torch.Tensor:
    return torch.from_numpy(store.gather(rows))


def _probe(run: Stage, store: PackedStore, rows: Any) -> list[Callback]:
    """The online kNN on the labels of finetune's first draw, if there are any to draw."""
    fraction = run.params.pretrain.probe_fraction
    labels = store.labels(rows)
    if fraction == 0 or (labels >= 0).sum() < len(store.classes):
        return []
    drawn = draw_labels(labels, fraction, seed=0, draw=0, setting="pretrain.probe_fraction")
    return [OnlineKNN(_images(store, rows[drawn]), torch.from_numpy(labels[drawn]))]


def _trainer(run: Stage, callbacks: list[Callback]) -> Trainer:
    # Its lines of advice (workers, loggers, "fit stopped") would break up the progress bar.
    warnings.filterwarnings("ignore", module="lightning")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    return Trainer(
        max_epochs=run.params.pretrain.epochs,
        accelerator="auto",
        devices=1,
        logger=False,
        callbacks=[*callbacks, EpochCheckpoints(run.scratch)],
        plugins=[WholeFiles()],
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=run.scratch,
    )


def _last_healthy(run: Stage) -> str:
    checkpoint = newest_checkpoint(run.scratch, run.note)
    if checkpoint is None:
        return "It never ended an epoch healthy, so no checkpoint is kept."
    return (
        f"The last healthy checkpoint is kept: epoch {epochs_done(checkpoint)}, {checkpoint}. "
        "The same settings would go on from it to the same end; changed ones start again."
    )


def _tell(run: Stage, row: Mapping[str, float]) -> None:
    epoch = int(row["epoch"]) + 1
    run.journal.metrics({k: v for k, v in row.items() if k != "epoch"}, step=epoch)


if __name__ == "__main__":
    with stage("pretrain") as run:
        pretrain(run)
