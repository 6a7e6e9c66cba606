"""Every method under one budget: the same images, seconds and core, then the same judges.

    python -m benchmarks.methods [--data fashion-mnist] [--data cifar10=copy.npz] [--methods a,b]
                                 [--seconds 60] [--seeds 3] [--at-once 2] [--out FOLDER]

A method pretrains under its preset (`examples/methods/NAME.yaml` over `examples/DATA.yaml` over
params.yaml), on one thread, for as many steps as its own measured speed makes of the budget, the
making of views included. Its last encoder is then judged on the test set: kNN and a linear probe
on all labels, a linear probe and the fine-tuning of params.yaml on 1% of them; neighbours and
probes see the last map on a 3 x 3 grid. Beside them the same
for the random encoder of either family, whose fine-tuning is the control (supervised from scratch),
and for the pixels themselves.

Each cell is kept in FOLDER under its settings as soon as it is done, and not computed again: an
interrupted benchmark goes on. It does not know the code: after a change of that take another
folder. Nothing else may run meanwhile. What happens between epochs (k-means) is not in the budget.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import statistics
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import BaseModel
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from benchmarks.throughput import in_memory, method_for, settings_of, step_costs
from data.images.augment import build_augmenter
from data.packing.pack import pack
from data.store.packed_store import PackedStore, evenly_spread, read_test_labels
from data.store.splits import draw_labels
from models.encoders.batch_norm import measure_norms
from models.encoders.feature_metrics import knn_accuracy
from models.encoders.features import extract_features
from models.encoders.images.encoder import Encoder, build_encoder
from models.encoders.images.pixels import to_float
from models.encoders.params import Readout
from models.learners import LinearProbeParams, fit_classifier
from models.learners.logistic import choose_penalty, fit_logistic
from models.methods.base import Method
from models.methods.registry import METHODS
from models.training.randomness import seeded
from tasks.errors import TaskError
from tasks.settings.schema import Params
from tasks.stages.pretrain import WATCHED, view_policies

RANDOM, PIXELS = "random encoder", "pixels"
ALL = [*METHODS, "simclr@vit", "dino@vit"]
BESIDE = [RANDOM, f"{RANDOM}@vit", PIXELS]
VIT = {"name": "test_vit", "patch_size": 4, "readout": {"grid": 2, "stages": 1}}
# What neighbours and probes see of every encoder, whatever the method's own readout was.
JUDGED = Readout(grid=3)
PENALTIES = LinearProbeParams().penalties
# With fifty thousand labels and more there is little to be penalised.
PENALTY_OF_ALL = 1e-3
SHOWN = ("knn", "probe_few", "probe_all", "finetune")


@dataclass(frozen=True)
class Contender:
    """A method, or what it is held against, under settings to pretrain and to judge."""

    name: str
    family: str
    settings: Params

    @property
    def trains(self) -> bool:
        """Whether there is anything to pretrain."""
        return self.name in METHODS


@dataclass(frozen=True)
class Cell:
    """One contender on one set of images with one seed."""

    data: str
    contender: Contender
    seed: int
    seconds: float
    packed: Path

    @property
    def kept(self) -> Path:
        """Where its numbers are kept."""
        one = self.contender
        name = f"{one.name}-{one.family}-{self.seed}-{_digest(one.settings)}.json"
        budget = f"{self.seconds:g}s" if one.trains else "untrained"
        return self.packed / budget / name.replace(" ", "-")


def measure(cell: Cell) -> dict[str, Any]:
    """Pretrain and judge; keeps and gives the numbers."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", module="lightning")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    store = PackedStore.open(cell.packed / "store")
    pretrain = cell.contender.settings.pretrain
    result: dict[str, Any] = {"contender": cell.contender.name, "family": cell.contender.family}
    shape = {name: store.manifest[name] for name in ("channels", "size", "mean", "std")}
    encoder = build_encoder(pretrain.encoder, **shape, seed=cell.seed)
    if cell.contender.trains:
        method, cost = _pretrained(cell, store)
        encoder = method.encoder
        result |= cost
    result |= judge(cell, store, encoder)
    cell.kept.parent.mkdir(parents=True, exist_ok=True)
    cell.kept.write_text(json.dumps(result, indent=1))
    return result


def _pretrained(cell: Cell, store: PackedStore) -> tuple[Method, dict[str, float]]:
    """The method after its budget, and what a step of it costs."""
    params = cell.contender.settings.pretrain
    real, bare = step_costs(params, store, min(12.0, cell.seconds / 5))
    steps = max(1, round(cell.seconds / real))
    started = time.perf_counter()
    method = pretrain(params, store, cell.seed, steps)
    cost = {
        "steps": steps,
        "seconds": time.perf_counter() - started,
        "ms_a_step": 1000 * real,
        "of_bare": real / bare,
        "mib": step_bytes(method_for(params, store), next(in_memory(params, store))) / 2**20,
    }
    return method, cost


def pretrain(params: Any, store: PackedStore, seed: int, steps: int) -> Method:
    """Train for so many steps, through the loop that the stage uses."""
    from lightning.pytorch import Trainer

    from data.images.views import ViewsDataModule
    from models.pretraining.module import Pretraining

    method = method_for(params, store, seed)
    rows = store.rows("train")
    data = ViewsDataModule(store, rows, view_policies(params), params.batch_size, seed)
    # One long epoch to the schedule, which else counts whole ones.
    share = params.optimizer.warmup_epochs / params.epochs
    optimizer = params.optimizer.model_copy(update={"warmup_epochs": share})
    trainer = Trainer(
        max_steps=steps,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Pretraining(method, optimizer, 1, steps, seed), data)
    watched = torch.from_numpy(store.gather(evenly_spread(rows, WATCHED)))
    measure_norms(method.encoder, watched)
    return method


def step_bytes(method: Method, batch: dict[str, Any]) -> int:
    """What a step must hold at once: weights, their optimizer's state, and saved activations."""
    weights = {id(p): p for p in method.parameters()}
    held = sum(w.nbytes * (4 if w.requires_grad else 1) for w in weights.values())
    held += sum(b.nbytes for b in method.buffers())
    known = {w.untyped_storage().data_ptr() for w in weights.values()}
    saved: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss = method.training_step(batch)["loss"]
    total = held + sum(saved.values())
    del loss
    return total


def judge(cell: Cell, store: PackedStore, encoder: Encoder) -> dict[str, float]:
    """Accuracy on the test set by each judge."""
    rows = store.rows("train")
    images, labels = torch.from_numpy(store.gather(rows)), store.labels(rows)
    tests = torch.from_numpy(store.gather(store.rows("test")))
    known = read_test_labels(cell.packed / "test_labels.parquet")["label"]
    truth = torch.from_numpy(known.to_numpy(copy=True))
    finetune = cell.contender.settings.finetune
    few = draw_labels(labels, finetune.label_fraction, cell.seed, draw=cell.seed)
    targets, classes = torch.from_numpy(labels), len(store.classes)
    pixels = cell.contender.name == PIXELS
    bank, queries = (
        to_float(x, torch.device("cpu")).flatten(1)
        if pixels
        else extract_features(encoder, x, readout=JUDGED)
        for x in (images, tests)
    )
    found = {"knn": knn_accuracy(bank, targets, queries, truth)}
    for name, some, penalties in (
        ("probe_few", few, PENALTIES),
        ("probe_all", slice(None), (PENALTY_OF_ALL,)),
    ):
        with seeded(cell.seed, "probe"):
            right = probe(bank[some], targets[some], queries, classes, penalties) == truth
        found[name] = right.double().mean().item()
    if not pixels:
        own = finetune if cell.contender.trains else finetune.control or finetune
        shape = store.manifest["size"], store.manifest["channels"]
        classifier = fit_classifier(
            own.learner,
            encoder,
            images[few],
            targets[few],
            classes,
            build_augmenter(own.augmentation, *shape),
            cell.seed,
        )
        guesses = torch.cat([classifier.predict_proba(x).argmax(1) for x in tests.split(1000)])
        found["finetune"] = (guesses == truth).double().mean().item()
    return found


def probe(
    features: Tensor, labels: Tensor, queries: Tensor, classes: int, penalties: tuple[float, ...]
) -> Tensor:
    """Classes of the queries by logistic regression on standardised features, in the fewer of
    their dimensions and the images'."""
    mean, std = features.mean(0), features.std(0, correction=0)
    std = std + 1e-3 * std.mean() + 1e-12
    inputs, asked = ((x - mean) / std for x in (features, queries))
    if inputs.shape[1] > len(inputs):
        span = torch.linalg.qr(inputs.T).Q
        inputs, asked = inputs @ span, asked @ span
    penalty = choose_penalty(inputs, labels, classes, penalties, folds=5)
    fitted = fit_logistic(inputs, labels, classes, penalty, tolerance=1e-3)
    return F.linear(asked, *fitted).argmax(1)


def contenders(
    data: str, names: Sequence[str], folder: Path, changes: list[str], console: Console
) -> Iterator[Contender]:
    """Those named that these images suit, under their presets."""
    presets = [data] if Path("examples", f"{data}.yaml").is_file() else []
    for name in names:
        plain, _, family = name.partition("@")
        own = Path("examples", "methods", f"{plain}.yaml").is_file()
        asked = argparse.Namespace(
            preset=[*presets, *([f"methods/{plain}"] if own else [])],
            set=[*changes, *([f"pretrain.method.name={plain}"] if plain in METHODS else [])],
        )
        if family == "vit":
            asked.set += [f"pretrain.encoder.{key}={json.dumps(v)}" for key, v in VIT.items()]
        place = folder / f"{data}-{name.replace(' ', '-')}"
        place.mkdir(parents=True)
        try:
            settings = settings_of(asked, place)
        except TaskError as error:
            console.print(f"{data} without {name}: {error}", markup=False, highlight=False)
            continue
        kind = "ViT" if settings.pretrain.encoder.name != "resnet_tiny" else "CNN"
        yield Contender(plain, "–" if plain == PIXELS else kind, settings)


def table(results: Sequence[dict[str, Any]], label_share: str) -> str:
    """Markdown: a row a contender, mean ± standard deviation over seeds, the best probes first."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for result in results:
        groups.setdefault((result["contender"], result["family"]), []).append(result)
    simclr = next(
        (g[0] for (name, kind), g in groups.items() if (name, kind) == ("simclr", "CNN")), None
    )
    lines = [
        f"| method | encoder | kNN | probe, {label_share} | probe, all labels | fine-tuned, "
        f"{label_share} | seeds | steps | time | memory | of bare |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]

    def order(group: list[dict[str, Any]]) -> float:
        return -statistics.mean(r["probe_few"] for r in group)

    for (name, kind), group in sorted(groups.items(), key=lambda item: order(item[1])):
        cells = [_mean([r[key] for r in group if key in r]) for key in SHOWN]
        costs = ["–"] * 4
        if "steps" in group[0]:
            middle = {
                k: statistics.median(r[k] for r in group)
                for k in ("steps", "ms_a_step", "mib", "of_bare")
            }
            base = simclr or middle
            costs = [
                f"{middle['steps']:,.0f}",
                f"{middle['ms_a_step'] / base['ms_a_step']:.1f}",
                f"{middle['mib'] / base['mib']:.1f}",
                f"{middle['of_bare']:.2f}",
            ]
        lines.append("| " + " | ".join([name, kind, *cells, str(len(group)), *costs]) + " |")
    return "\n".join(lines)


def _mean(values: list[float]) -> str:
    if not values:
        return "–"
    spread = f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{100 * statistics.mean(values):.1f}{spread}"


def main() -> None:
    """Compute what is missing, then print a table for each set of images."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", action="append", metavar="NAME[=COPY.npz]")
    parser.add_argument("--methods", help="comma-separated; NAME@vit for the ViT; default: all")
    parser.add_argument("--seconds", type=float, default=60, help="of pretraining")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--at-once", type=int, default=2, help="cells side by side, a core each")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--out", type=Path, default=Path(".instar/bench/methods"))
    arguments = parser.parse_args()
    asked = arguments.methods.split(",") if arguments.methods else ALL
    if unknown := {name.partition("@")[0] for name in asked} - set(METHODS):
        parser.error(f"no methods {', '.join(sorted(unknown))}: there are {', '.join(METHODS)}")
    console = Console(stderr=True)
    failed = False
    for given in arguments.data or ["fashion-mnist"]:
        data, _, copy = given.partition("=")
        changes = list(arguments.set)
        if copy:
            changes += ["data.source=npz", f"data.path={Path(copy).resolve()}"]
        with TemporaryDirectory() as folder:
            who = list(contenders(data, [*asked, *BESIDE], Path(folder), changes, console))
        prepared = who[0].settings.data
        packed = arguments.out / f"{data}-{_digest(prepared)}"
        if not (packed / "store").is_dir():
            console.print(f"packing {data}")
            pack(prepared, packed)
        cells = [
            Cell(data, one, seed, arguments.seconds, packed)
            for seed in range(arguments.seeds)
            for one in who
        ]
        failed |= not compute(cells, arguments.at_once, console)
        results = [json.loads(cell.kept.read_text()) for cell in cells if cell.kept.is_file()]
        share = f"{100 * who[0].settings.finetune.label_fraction:.3g}% of labels"
        print(f"\n{data}, {arguments.seconds:g} s of one core\n")
        print(table(results, share), flush=True)
    if failed:
        raise SystemExit(1)


def compute(cells: Sequence[Cell], at_once: int, console: Console) -> bool:
    """Measure the cells that are not kept yet; gives whether all went well."""
    missing = [cell for cell in cells if not cell.kept.is_file()]
    well = True
    with (
        ProcessPoolExecutor(at_once, get_context("spawn"), initializer=_begin) as pool,
        Progress(console=console) as progress,
    ):
        bar = progress.add_task(missing[0].data if missing else "kept", total=len(missing))
        jobs = {pool.submit(measure, cell): cell for cell in missing}
        for job in as_completed(jobs):
            progress.advance(bar)
            one, seed = jobs[job].contender, jobs[job].seed
            try:
                found = job.result()
                said = " ".join(f"{key} {100 * found[key]:.1f}" for key in SHOWN if key in found)
            except Exception as error:  # the others go on
                said, well = f"failed: {error}", False
            said = f"{one.name} {one.family} seed {seed}: {said}"
            console.print(said, markup=False, highlight=False, soft_wrap=True)
    return well


def _begin() -> None:
    """Set up a worker: one that outlived a killed benchmark would disturb the next."""
    parent = parent_process()
    assert parent is not None

    def end_with_it() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=end_with_it, daemon=True).start()


def _digest(settings: BaseModel) -> str:
    return hashlib.sha256(settings.model_dump_json().encode()).hexdigest()[:8]


if __name__ == "__main__":
    main()
