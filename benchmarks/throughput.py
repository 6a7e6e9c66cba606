"""Pretraining throughput of each engine, as a share of the bare loop in the same run.

The bare loop is forward + backward + optimizer step on views that lie in memory: what is left to
1.00 is what loading, augmentation and Lightning cost. Runs take turns, so that a noisy machine
hits all alike; the median of the turns is shown.

    python -m benchmarks.throughput [--preset cifar10] [--set KEY=VALUE]… [--seconds 10] [--turns 3]

Network, views and batch are those of params.yaml, changed as `instar run` would change them.
`--peer` adds lightly's transforms and DataLoader (`pip install -e .[bench]`).
"""

from __future__ import annotations

import argparse
import itertools
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.optim import Optimizer

from data.images.views import Views, ViewsDataModule
from data.packing.pack import pack
from data.sources.params import DataParams
from data.store.packed_store import PackedStore
from models.encoders.images.encoder import build_encoder
from models.methods import build_method
from models.methods.base import Method
from models.training.optimizers import build_optimizer, decay_groups
from tasks.settings.editing import change_settings
from tasks.settings.loading import load_params
from tasks.settings.schema import Params, PretrainParams
from tasks.stages.pretrain import view_policies

if TYPE_CHECKING:
    from lightning.pytorch import Callback, Trainer

Batches = Iterator[dict[str, Any]]
IMAGES = 8192


def make_store(folder: Path, size: int, channels: int) -> PackedStore:
    """A packed store of smooth random images: their content does not matter for speed."""
    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (IMAGES, 7, 7, channels), dtype=np.uint8)
    images = coarse.repeat(-(-size // 7), 1).repeat(-(-size // 7), 2)[:, :size, :size]
    labels = np.arange(IMAGES) % 10
    np.savez(folder / "images.npz", train_images=images, train_labels=labels)
    params = DataParams(
        source="npz", path=str(folder / "images.npz"), size=size, channels=channels, seed=0
    )
    pack(params, folder / "packed")
    return PackedStore.open(folder / "packed" / "store")


def method_for(params: PretrainParams, store: PackedStore, seed: int = 0) -> Method:
    """The method of params.yaml on a fresh encoder."""
    shape = {name: store.manifest[name] for name in ("channels", "size", "mean", "std")}
    encoder = build_encoder(params.encoder, **shape, seed=seed)
    method = build_method(params.method, encoder, seed=seed)
    method.expect(len(store.rows("train")))
    return method


def train(method: Method, batches: Batches, batch_size: int, seconds: float) -> float:
    """Images a second of plain training on `batches` for so long (after 5 steps of warm-up)."""
    optimizer = build_optimizer("adamw", decay_groups(method, 1e-3, 1e-2))
    method.train()
    steps = started = 0.0
    for number, batch in enumerate(batches):
        if number == 5:
            started = time.perf_counter()
        bare_step(method, optimizer, batch)
        if number >= 5:
            steps += 1
            if time.perf_counter() - started > seconds:
                break
    return steps * batch_size / (time.perf_counter() - started)


def bare_step(method: Method, optimizer: Optimizer, batch: dict[str, Any]) -> None:
    """Forward, backward and update, and nothing else."""
    loss = method.training_step(batch)["loss"]
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    method.after_step(0.0)


def lightning_speed(
    params: PretrainParams, store: PackedStore, engine: str, workers: int, seconds: float
) -> float:
    """Images a second of the real thing (after 5 steps of warm-up)."""
    from lightning.pytorch import Callback

    class Clock(Callback):
        first = last = 0.0
        steps = 0

        def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
            self.last = time.perf_counter()
            self.steps += 1
            if self.steps == 5:
                self.first = self.last
            trainer.should_stop = self.steps > 5 and self.last - self.first > seconds

    clock = Clock()
    run_loop(clock, params, store, engine, workers)
    return (clock.steps - 5) * params.batch_size / (clock.last - clock.first)


def step_costs(params: PretrainParams, store: PackedStore, seconds: float) -> tuple[float, float]:
    """Seconds that a step of the real thing takes, and a bare one (after 5 of each for warm-up).

    They take turns step by step, so that a machine whose speed changes hits both alike.
    """
    from lightning.pytorch import Callback

    method, batch = method_for(params, store).train(), next(in_memory(params, store))
    optimizer = build_optimizer("adamw", decay_groups(method, 1e-3, 1e-2))
    real, bare = [], []

    class Turns(Callback):
        resumed = time.perf_counter()

        def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
            paused = time.perf_counter()
            real.append(paused - self.resumed)
            bare_step(method, optimizer, batch)
            self.resumed = time.perf_counter()
            bare.append(self.resumed - paused)
            trainer.should_stop = sum(real[5:]) + sum(bare[5:]) > seconds

    run_loop(Turns(), params, store, "batched", 0)
    return statistics.mean(real[5:]), statistics.mean(bare[5:])


def run_loop(
    callback: Callback, params: PretrainParams, store: PackedStore, engine: str, workers: int
) -> None:
    """The real thing: Lightning's trainer over our DataModule, until the callback stops it."""
    from lightning.pytorch import Trainer

    from models.pretraining.module import Pretraining

    augmentation = params.augmentation.model_copy(update={"engine": engine})
    data = ViewsDataModule(
        store,
        store.rows("train"),
        view_policies(params.model_copy(update={"augmentation": augmentation})),
        batch_size=params.batch_size,
        seed=0,
        workers=workers,
    )
    module = Pretraining(method_for(params, store), params.optimizer, 1000, 1000, seed=0)
    trainer = Trainer(
        max_epochs=-1,
        accelerator="cpu",
        logger=False,
        callbacks=[callback],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, data)


def in_memory(params: PretrainParams, store: PackedStore) -> Batches:
    """The same batch of views again and again."""
    make_views = Views(view_policies(params), store.manifest["size"], store.manifest["channels"], 0)
    index = torch.arange(params.batch_size)
    images = torch.from_numpy(store.gather(index.numpy()))
    return itertools.repeat({"views": make_views(images, 0, 0), "index": index})


def lightly_batches(params: PretrainParams, store: PackedStore, workers: int) -> Batches:
    """lightly's SimCLR transform on PIL images, in a torch DataLoader, endlessly."""
    from lightly.transforms import SimCLRTransform
    from PIL import Image
    from torch.utils.data import DataLoader, Dataset

    size = params.augmentation.view_size or store.manifest["size"]
    images = store.gather(np.arange(IMAGES))

    class Pictures(Dataset):
        def __init__(self) -> None:
            # No blur: lightly turns it off for small images, and so do we.
            self.transform = SimCLRTransform(input_size=size, gaussian_blur=0.0)

        def __len__(self) -> int:
            return len(images)

        def __getitem__(self, row: int) -> list[torch.Tensor]:
            views = self.transform(Image.fromarray(images[row].squeeze()).convert("RGB"))
            return [view[: images.shape[3]] for view in views]

    loader = DataLoader(
        Pictures(), params.batch_size, shuffle=True, drop_last=True, num_workers=workers
    )
    while True:
        for views in loader:
            yield {"views": [v.contiguous(memory_format=torch.channels_last) for v in views]}


def settings_of(arguments: argparse.Namespace, folder: Path) -> Params:
    """params.yaml with the preset and what is set by hand; the file itself stays as it is."""
    shutil.copy("params.yaml", folder)
    for room in ("examples", "data"):  # what settings may name must be there
        (folder / room).symlink_to(Path(room).resolve())
    change_settings(folder, arguments.set, arguments.preset)
    return load_params(folder / "params.yaml")


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, list[float]]:
    """Images a second of each contender, a value a turn."""
    settings = settings_of(arguments, folder)
    params = settings.pretrain
    torch.set_num_threads(params.threads)
    store = make_store(folder, settings.data.size, settings.data.channels)
    weights = sum(weight.numel() for weight in method_for(params, store).encoder.parameters())
    print(f"{weights:,} parameters, {settings.data.size} px, {settings.data.channels} channels")
    size, seconds = params.batch_size, arguments.seconds
    contenders: dict[str, Callable[[], float]] = {
        "bare loop": lambda: train(
            method_for(params, store), in_memory(params, store), size, seconds
        ),
        "instar batched": lambda: lightning_speed(params, store, "batched", 0, seconds),
        "instar albumentations, 2 workers": lambda: lightning_speed(
            params, store, "albumentations", 2, seconds
        ),
    }
    if arguments.peer:
        for workers in (0, 2):
            contenders[f"lightly transforms, {workers} workers"] = lambda w=workers: train(
                method_for(params, store), lightly_batches(params, store, w), size, seconds
            )
    speeds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(arguments.turns):
        for name, run in contenders.items():
            speeds[name].append(run())
    return speeds


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--preset", action="append", default=[], help="settings to measure, of examples/"
    )
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--seconds", type=float, default=10, help="measured time of each run")
    parser.add_argument("--turns", type=int, default=3, help="the median of so many is shown")
    parser.add_argument("--peer", action="store_true", help="measure lightly as well")
    with tempfile.TemporaryDirectory() as folder:
        speeds = measure(parser.parse_args(), Path(folder))
    bare = speeds["bare loop"]
    print("\n| pretraining | images/s | share of the bare loop |\n|---|---|---|")
    for name, values in speeds.items():
        share = statistics.median(v / b for v, b in zip(values, bare, strict=True))
        print(f"| {name} | {statistics.median(values):,.0f} | {share:.2f} |")


if __name__ == "__main__":
    main()
