"""From a source to a packed store: read, validate, quarantine, de-duplicate, resize once, split.

The bytes written depend on the source and the params alone. Memory holds one shard and the index,
never the images.
"""

import csv
import json
import math
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data.errors import DataError
from data.images.decoding import canvases
from data.packing.ledger import Ledger
from data.packing.shard_writer import ShardWriter, images_per_shard, require_space, shard_name
from data.samples import Source
from data.sources import open_source
from data.sources.params import DataParams
from data.store.packed_store import FORMAT, INDEX, MANIFEST, manifest_digest
from data.store.quarantine import NOT_READ, kind_of
from data.store.shards import file_sha256
from data.store.splits import stratified_split

Progress = Callable[[str, int, int | None], None]

REPORT_EVERY = 1000
# Of the kinds of reasons, how many an error names.
REASONS_TOLD = 4


@dataclass(frozen=True)
class PackSummary:
    """What packing found, in counts of images."""

    train: int
    """Images in the train split, unlabelled ones included."""
    test: int
    unlabelled: int
    """Those of the train split without a label."""
    duplicates: int
    """Dropped since the same pixels came before."""
    quarantined: int
    """Left out for another reason; each row of the index says which."""
    reasons: dict[str, int]
    """Kinds of those reasons and how often each occurs."""
    passed_over: dict[str, int]
    """Files that are not samples (not images, hidden), by what they are."""
    spoilt_classes: dict[str, list[int]]
    """Classes of which more than `data.max_quarantined` cannot be read: how many, and of how many;
    duplicates count as read."""
    test_from: str | None
    """Where the source has its test set; None if one was split off."""
    notes: list[str]
    """What a reader should know of how the source was understood."""
    classes: list[str]
    train_per_class: list[int]
    size: int
    channels: int
    mean: list[float]
    """Per channel over train, of values in [0, 1]."""
    std: list[float]
    digest: str
    """Checksum of the whole store."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def pack(
    params: DataParams,
    out: Path,
    progress: Progress = lambda *_: None,
    quarantine: Path | None = None,
) -> PackSummary:
    """Pack the source that `params` names into ``out/store``; what is known of its test apart.

    ``out/test_labels.parquet`` holds the labels of the test images, ``out/test_sources.parquet``
    the names of their files. All three are replaced at the very end, so that a pack that was cut
    off leaves what was there.

    Args:
        params: Source, size, channels, test split.
        out: Folder; made if need be.
        progress: Called as ``progress("pack", images read, images in all)``.
        quarantine: Where source and reason of every quarantined image are written if these are too
            many, as CSV: `out` then stays as it was.

    Raises:
        DataError: The source cannot be used, more of it is quarantined than
            ``params.max_quarantined``, or the disk is full.
    """
    out = Path(out)
    with closing(open_source(params)) as source, _staging(out) as staging:
        pixel_bytes = source.total * params.size**2 * params.channels
        require_space(staging, pixel_bytes + 300 * source.total)
        ledger, shards = _write_images(source, params, staging / "store", progress)
        _require_few_quarantined(ledger, source.total, params.max_quarantined, quarantine)
        splits = _final_splits(source, ledger, params)
        test = splits == "test"
        labels = ledger.labels()
        _write_table(ledger.table(splits), staging / "store" / INDEX)
        _write_test_labels(ledger, test, staging / "test_labels.parquet")
        _write_table(ledger.hidden_sources(splits), staging / "test_sources.parquet")
        per_class = np.bincount(
            labels[(splits == "train") & (labels >= 0)], minlength=len(source.classes)
        )
        mean, std = _moments(staging / "store", len(shards), params.channels, splits == "train")
        manifest = _manifest(source, ledger, params, splits, mean, std, shards)
        manifest["index"] = {"name": INDEX, "sha256": file_sha256(staging / "store" / INDEX)}
        manifest["digest"] = manifest_digest(manifest)
        text = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
        (staging / "store" / MANIFEST).write_text(text, encoding="utf-8")
    return PackSummary(
        **manifest["counts"],
        reasons=dict(ledger.frequent_reasons()),
        passed_over=manifest["passed_over"],
        spoilt_classes=_spoilt_classes(source.classes, ledger, params.max_quarantined),
        test_from=source.test_from,
        notes=list(source.notes),
        classes=source.classes,
        train_per_class=per_class.tolist(),
        size=params.size,
        channels=params.channels,
        mean=mean,
        std=std,
        digest=manifest["digest"],
    )


def _manifest(
    source: Source,
    ledger: Ledger,
    params: DataParams,
    splits: np.ndarray,
    mean: list[float],
    std: list[float],
    shards: list[dict[str, Any]],
) -> dict[str, Any]:
    """What the store says of itself, without the index's checksum and the digest of it all."""
    labels = ledger.labels()
    return {
        "format": FORMAT,
        "size": params.size,
        "channels": params.channels,
        "dtype": "uint8",
        "count": ledger.kept,
        "classes": source.classes,
        "mean": mean,
        "std": std,
        "counts": {
            "train": int((splits == "train").sum()),
            "test": int((splits == "test").sum()),
            "unlabelled": int(((splits == "train") & (labels < 0)).sum()),
            "duplicates": ledger.duplicates,
            "quarantined": ledger.quarantined,
        },
        "passed_over": dict(sorted(source.passed_over.items())),
        "shards": shards,
    }


@contextmanager
def _staging(out: Path) -> Iterator[Path]:
    """A hidden folder beside `out`, whose content moves into `out` if all goes well."""
    staging = out.parent / f".{out.name}.partial"
    shutil.rmtree(staging, ignore_errors=True)
    (staging / "store").mkdir(parents=True)
    try:
        yield staging
        out.mkdir(exist_ok=True)
        if (out / "store").exists():
            shutil.rmtree(out / "store")
        for name in ("store", "test_labels.parquet", "test_sources.parquet"):
            os.replace(staging / name, out / name)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _write_images(
    source: Source, params: DataParams, folder: Path, progress: Progress
) -> tuple[Ledger, list[dict[str, str | int]]]:
    ledger = Ledger()
    writer = ShardWriter(folder, params.size, params.channels, source.total)
    with warnings.catch_warnings():
        # Pillow warns of images that it finds large; the limit here refuses them with a reason.
        warnings.simplefilter("ignore")
        decoded = canvases(source.samples(), params.size, params.channels)
        for done, (sample, pixels, digest, reason) in enumerate(decoded, start=1):
            if pixels is None or digest is None:
                ledger.refuse(sample, reason or "")
            elif ledger.admit(sample, digest):
                writer.append(pixels)
            if done % REPORT_EVERY == 0 or done == source.total:
                progress("pack", done, source.total)
    writer.flush()
    return ledger, writer.shards


def _require_few_quarantined(
    ledger: Ledger, total: int, allowed: float, table: Path | None
) -> None:
    share = ledger.quarantined / total
    if ledger.kept and share <= allowed:
        return
    where = ""
    if table:
        _write_quarantine(ledger, table)
        where = f"; {table} names each with its reason"
    if ledger.kept:
        excess = f"more than data.max_quarantined ({allowed:.4g}) allows"
        remedy = "fix or remove them, or raise data.max_quarantined"
    else:
        excess, remedy = "none is left", "fix them"
    raise DataError(
        f"{ledger.quarantined} of {total} images ({100 * share:.3g}%) cannot be used, {excess}: "
        f"{_reasons_told(ledger)}{where}; {remedy}, and run again."
    )


def _reasons_told(ledger: Ledger) -> str:
    """The most frequent kinds of reasons with their counts, and how to convert what is not read."""
    reasons = ledger.frequent_reasons()
    shown = ", ".join(f"{kind} ({count})" for kind, count in reasons[:REASONS_TOLD])
    if len(reasons) > REASONS_TOLD:
        shown += f" and {len(reasons) - REASONS_TOLD} other reasons"
    remedies = sorted(
        {
            reason.partition(": ")[2]
            for _, reason in ledger.quarantine()
            if kind_of(reason).endswith(NOT_READ)
        }
    )
    return "; ".join([shown, *remedies])


def _write_quarantine(ledger: Ledger, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(("source", "reason"))
        rows.writerows(ledger.quarantine())
    os.replace(partial, path)


def _final_splits(source: Source, ledger: Ledger, params: DataParams) -> np.ndarray:
    """Split of each kept row: "train", "test" or "" (quarantined); (N,)."""
    splits, labels = ledger.splits(), ledger.labels()
    if source.test_from is None:
        splits[_split_off(source.classes, splits, labels, params, ledger)] = "test"
    elif not (splits == "test").any():
        raise DataError(
            "none of the test images can be used; see that they are not damaged. "
            f"{_left_out(ledger)}"
        )
    for number, name in enumerate(source.classes):
        if not ((labels == number) & (splits == "train")).any():
            raise DataError(
                f"class {name!r} has no usable training image (damaged, of a format that is not "
                "read, or duplicates of images in the test set or in another class); add images "
                f"or remove the class. {_left_out(ledger)}"
            )
    splits[splits == "unlabelled"] = "train"
    return splits


def _spoilt_classes(classes: list[str], ledger: Ledger, allowed: float) -> dict[str, list[int]]:
    """Of all images together so few may be spoilt that nothing stops, and yet most of a class."""
    counts = {name: [ledger.unread[n], ledger.given[n]] for n, name in enumerate(classes)}
    return {name: count for name, count in counts.items() if count[0] > allowed * count[1]}


def _left_out(ledger: Ledger) -> str:
    return f"Quarantined, of all classes: {_reasons_told(ledger) or 'nothing'}."


def _split_off(
    classes: list[str], splits: np.ndarray, labels: np.ndarray, params: DataParams, ledger: Ledger
) -> np.ndarray:
    candidates = np.where(splits == "train", labels, -1)
    counts = np.bincount(candidates[candidates >= 0], minlength=len(classes))
    if counts.min() < 2:
        raise DataError(
            f"class {classes[int(counts.argmin())]!r} has {counts.min()} usable images, so none "
            f"can be split off for the test; add images, or bring a test set. {_left_out(ledger)}"
        )
    return stratified_split(candidates, params.test_fraction, params.seed)


def _moments(
    folder: Path, shards: int, channels: int, train: np.ndarray
) -> tuple[list[float], list[float]]:
    """Mean and standard deviation per channel over `train`, exact: from counts of pixel values."""
    counts = np.zeros((channels, 256), np.int64)
    start = 0
    for number in range(shards):
        images = np.load(folder / shard_name(number), mmap_mode="r", allow_pickle=False)
        block = max(1, images_per_shard(*images.shape[2:]) // 16)
        for offset in range(0, len(images), block):
            chosen = train[start + offset : start + min(offset + block, len(images))]
            pixels = images[offset : offset + block][chosen]
            for channel in range(channels):
                counts[channel] += np.bincount(pixels[..., channel].ravel(), minlength=256)
        start += len(images)
    mean, std = [], []
    for histogram in counts.tolist():
        total = sum(histogram)
        first = sum(n * value for value, n in enumerate(histogram)) / total
        variance = sum(n * (value - first) ** 2 for value, n in enumerate(histogram)) / total
        mean.append(first / 255)
        # Images are divided by it; of constant images it would be zero.
        std.append(max(math.sqrt(variance), 1.0) / 255)
    return mean, std


def _write_table(table: Any, path: Path) -> None:
    import pyarrow.parquet as pq

    pq.write_table(table, path, compression="zstd", row_group_size=1 << 20)


def _write_test_labels(ledger: Ledger, test: np.ndarray, path: Path) -> None:
    import pyarrow as pa

    ids = np.array(ledger.ids()[: ledger.kept])[test]
    labels = pa.array(ledger.labels()[test], pa.int64())
    _write_table(pa.table({"id": pa.array(ids.tolist(), pa.string()), "label": labels}), path)
