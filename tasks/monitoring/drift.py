"""Drift: whether new images could come from where those of the Production model came from.

New are the images whose pixels the packed store of the Production model does not hold. They are
compared with training images of that store in the features of its pretrained encoder, and in
brightness and contrast, by `tasks.monitoring.two_sample_test`. No label is read.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.errors import TaskError
from tasks.monitoring.two_sample_test import Statistic
from tasks.settings.loading import load_params
from tasks.versioning.dvc_cache import cache_folder, files_of
from tasks.versioning.past_runs import outputs_of

if TYPE_CHECKING:
    import numpy as np

    from data.samples import Sample as Image
    from data.sources.params import DataParams
    from data.store.packed_store import PackedStore
    from models.encoders.images.encoder import Encoder
    from tasks.monitoring.two_sample_test import Sample

STORE = "artifacts/prepare/store"
ENCODER = ("artifacts/pretrain/encoder.safetensors", "artifacts/pretrain/encoder.json")
ALPHA = 0.01
SAMPLE = 1000
# Of fewer, no test could tell anything at this alpha.
LEAST = 10
CHANNELS: Mapping[int, tuple[str, ...]] = {1: ("",), 3: (" (red)", " (green)", " (blue)")}


class UnmeasuredError(TaskError):
    """There is no drift measure; the message says why."""


@dataclass(frozen=True)
class Drift:
    """How far the new images are from the training images.

    Attributes:
        against: The model version that learned from the training images.
        drifted: Whether p is at most alpha.
        p: How often images from the same source would differ as much.
        alpha: How often no drift is called drift.
        training: Number of training images compared.
        new: Number of new images compared.
        unreadable: New images that `prepare` would quarantine.
        statistics: Each measure with its own effect size and p-value.
    """

    against: str
    drifted: bool
    p: float
    alpha: float
    training: int
    new: int
    unreadable: int
    statistics: list[Statistic]


def measure_drift(
    root: Path,
    production: tuple[str, str],
    names: Collection[str] | None,
    alpha: float = ALPHA,
    most: int = SAMPLE,
) -> Drift:
    """Compare new images at `data.path` with the training images of the Production model.

    Args:
        root: The checkout.
        production: Name and commit of the version, see `production_version`.
        names: Items that are new or changed; None: any may be.
        alpha: Which share of false alarms is allowed.
        most: Compare at most so many images of each side.

    Raises:
        UnmeasuredError: DVC's cache has no longer what the model was made of, the data cannot be
            read, or too few images are new.
    """
    from data.errors import DataError
    from models.errors import ModelError

    try:
        with opened(root, production[1]) as (store, encoder):
            return _measured(root, production[0], store, encoder, names, alpha, most)
    except (DataError, ModelError) as problem:
        raise UnmeasuredError(str(problem)) from None


def _measured(
    root: Path,
    version: str,
    store: PackedStore,
    encoder: Encoder,
    names: Collection[str] | None,
    alpha: float,
    most: int,
) -> Drift:
    from tasks.monitoring.two_sample_test import compare

    params = load_params(root / "params.yaml").data
    params = params.model_copy(update={"path": str(root / params.path)})
    images, unreadable = new_images(params, store, names, most)
    if len(images) < LEAST:
        raise UnmeasuredError(
            f"{len(images)} readable training images have pixels that {version} did not know; "
            f"the test needs {LEAST}."
        )
    known = training_images(store, most)
    found = compare(described(known, encoder), described(images, encoder))
    drifted = found.p <= alpha
    sizes = (len(known), len(images), unreadable)
    return Drift(version, drifted, found.p, alpha, *sizes, found.statistics)


def production_version(root: Path, tracking_uri: str) -> tuple[str, str] | None:
    """Name and commit of the version that is in Production; None if none is yet.

    Raises:
        UnmeasuredError: MLflow does not answer.
    """
    from mlflow.exceptions import MlflowException

    from tasks.registry.aliases import standing
    from tasks.tracking.client import explained

    name = load_params(root / "params.yaml").register_.name
    try:
        with explained(tracking_uri) as client:
            try:
                version = standing(client, name).get("champion")
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
                version = None
            if version is None:
                return None
            commit = client.get_model_version(name, version).tags.get("git_commit")
    except TaskError as problem:
        raise UnmeasuredError(str(problem)) from None
    if commit is None:
        raise UnmeasuredError(
            f"{name}@{version}, in Production, was not registered by Instar: no tag says which "
            "commit made it."
        )
    return f"{name}@{version}", commit


@contextmanager
def opened(root: Path, commit: str) -> Iterator[tuple[PackedStore, Encoder]]:
    """Packed store and pretrained encoder of a commit's run, from DVC's cache.

    Raises:
        UnmeasuredError: The commit or the files are not here.
    """
    from data.store.packed_store import PackedStore
    from models.encoders.images.encoder import build_encoder
    from models.encoders.params import EncoderParams
    from models.encoders.weights import load_weights

    try:
        made = outputs_of(root, commit)
        cache = cache_folder(root)
        files = [pair for out in (STORE, *ENCODER) for pair in files_of(cache, out, made[out])]
    except (TaskError, KeyError) as problem:
        raise UnmeasuredError(
            f"what the Production model was made of is not here: {problem}"
        ) from None
    missing = [name for name, source in files if not source.exists()]
    if missing:
        raise UnmeasuredError(
            f"DVC's cache has no longer {missing[0]} of the Production model: "
            "`dvc fetch --all-tags`, then try again."
        )
    with tempfile.TemporaryDirectory(prefix="instar-drift-") as folder:
        for name, source in files:
            link = Path(folder) / name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(source)
        store = PackedStore.open(Path(folder) / STORE)
        described = json.loads((Path(folder) / ENCODER[1]).read_text(encoding="utf-8"))
        shape = {name: store.manifest[name] for name in ("channels", "size", "mean", "std")}
        encoder = build_encoder(EncoderParams.model_validate(described["encoder"]), **shape)
        load_weights(encoder, Path(folder) / ENCODER[0])
        yield store, encoder


def training_images(store: PackedStore, most: int, seed: int = 0) -> np.ndarray:
    """At most so many images of the train split, drawn at random; uint8 (n, H, W, C)."""
    import numpy as np

    rows = store.rows("train")
    drawn = np.random.default_rng(seed).permutation(len(rows))[:most]
    return store.gather(rows[np.sort(drawn)])


def new_images(
    params: DataParams,
    store: PackedStore,
    names: Collection[str] | None,
    most: int,
    seed: int = 0,
) -> tuple[np.ndarray, int]:
    """At most so many images of a source that the store does not hold, as it would hold them.

    Those of a test set that the source brings are left out: they are not training images.

    Returns:
        uint8 (n, H, W, C), and how many more could not be read.
    """
    import numpy as np

    from data.images.decoding import canvases
    from data.sources import open_source
    from data.sources.file_names import escaped

    size, channels = store.manifest["size"], store.manifest["channels"]
    known = {bytes.fromhex(digest) for digest in store.index["sha256"].dropna()}
    random = np.random.default_rng(seed)
    kept: list[np.ndarray] = []
    seen = unreadable = 0
    with closing(open_source(params)) as source:
        wanted = {escaped(name) for name in names or ()}
        samples: Iterable[Image] = (s for s in source.samples() if s.split != "test")
        if params.source == "folder":
            # Nothing is read yet: shuffled, the first ones do, however many there are.
            chosen = [s for s in samples if names is None or s.source in wanted]
            random.shuffle(chosen)
            samples = chosen
        for canvas in canvases(samples, size, channels):
            if canvas.pixels is None or canvas.digest is None:
                unreadable += 1
            elif canvas.digest not in known:
                known.add(canvas.digest)
                seen += 1
                if len(kept) < most:
                    kept.append(canvas.pixels)
                elif params.source == "folder":
                    break
                # Of a stream of unknown length each has the same chance (Vitter's algorithm R).
                elif (place := int(random.integers(seen))) < most:
                    kept[place] = canvas.pixels
    shape = (0, size, size, channels)
    return np.stack(kept) if kept else np.empty(shape, np.uint8), unreadable


def described(images: np.ndarray, encoder: Encoder) -> Sample:
    """What the test sees of images (uint8): features, and brightness and contrast a channel."""
    import torch

    from models.encoders.features import extract_features
    from tasks.monitoring.two_sample_test import Sample

    scaled = images.reshape(len(images), -1, images.shape[-1]) / 255.0
    pixels = {}
    for channel, name in enumerate(CHANNELS[images.shape[-1]]):
        pixels[f"brightness{name}"] = scaled[..., channel].mean(axis=1)
        pixels[f"contrast{name}"] = scaled[..., channel].std(axis=1)
    return Sample(extract_features(encoder, torch.from_numpy(images)).numpy(), pixels)
