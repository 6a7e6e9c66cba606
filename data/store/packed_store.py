"""The packed store: what training reads instead of image files.

A folder of memory-mapped shards (``images-00000.npy`` …: N×H×W×C uint8), ``index.parquet`` (a row
for each sample: id, source, sha256 of its pixels, split, label, reason) and ``manifest.json`` (what
is in it, with checksums). Row *i* of the index owns image *i*; rows beyond the images were
quarantined without leaving any. Labels and names of test images lie apart, beside the store: a
file's name often holds its class.
"""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from data.errors import DataError
from data.store.shards import file_sha256

if TYPE_CHECKING:
    import pandas as pd

FORMAT = 2
INDEX, MANIFEST = "index.parquet", "manifest.json"


def manifest_digest(manifest: dict[str, Any]) -> str:
    """One SHA-256 over everything in the store, through the checksums in its manifest."""
    content = {key: value for key, value in manifest.items() if key != "digest"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


class PackedStore:
    """A packed store on disk, read-only. Use `open`."""

    def __init__(self, path: Path, manifest: dict[str, Any]):
        self.path = path
        self.manifest = manifest
        """size, channels, dtype, count (of images), classes, mean and std (per channel over train,
        of values in [0, 1]), counts (by split), shards, digest."""
        self.classes: list[str] = manifest["classes"]
        self._per_shard: int = manifest["shards"][0]["images"]
        self._shape = (manifest["size"], manifest["size"], manifest["channels"])

    @classmethod
    def open(cls, path: str | Path, verify: bool = False) -> PackedStore:
        """Open the store in the folder `path`.

        Args:
            path: The folder, e.g. ``artifacts/prepare/store``.
            verify: Read every byte and hold it to the checksums.

        Raises:
            DataError: There is no store, it is incomplete, or (with `verify`) changed.
        """
        path = Path(path)
        try:
            manifest = json.loads((path / MANIFEST).read_text())
        except FileNotFoundError:
            raise DataError(f"{path} holds no packed store; run the stage prepare.") from None
        except ValueError:
            raise DataError(f"{path / MANIFEST} is damaged; run the stage prepare again.") from None
        if manifest.get("format") != FORMAT:
            raise DataError(
                f"{path} was packed in format {manifest.get('format')}, this code reads {FORMAT}; "
                "run the stage prepare again."
            )
        store = cls(path, manifest)
        if verify:
            store._verify()
        return store

    def __reduce__(self) -> tuple[Any, ...]:
        # A worker process opens the files itself: pickling a memory map would copy all pixels.
        return PackedStore.open, (self.path,)

    def __len__(self) -> int:
        """Number of images."""
        return self.manifest["count"]

    @cached_property
    def index(self) -> pd.DataFrame:
        """A row for each sample: id, source (null for test images and their duplicates), sha256,
        split ("train", "test" or null), label (Int64; null if unlabelled, and for every test row),
        reason (of quarantined rows)."""
        import pandas as pd

        return self._table().to_pandas(types_mapper={_int64(): pd.Int64Dtype()}.get)

    def rows(self, split: str) -> np.ndarray:
        """Row numbers of a split, "train" (unlabelled images included) or "test"; sorted int64."""
        return np.flatnonzero(self._column("split").to_numpy(zero_copy_only=False) == split)

    def labels(self, rows: np.ndarray) -> np.ndarray:
        """Labels of `rows`, -1 where there is none (as for all test rows); (N,) int64."""
        return self._all_labels[rows]

    def gather(self, rows: np.ndarray) -> np.ndarray:
        """Images of `rows`, in their order: a new array (N, H, W, C), uint8."""
        rows = np.asarray(rows, dtype=np.int64)
        if len(rows) and not (rows.min() >= 0 and rows.max() < len(self)):
            raise IndexError(f"rows {rows.min()} to {rows.max()} of a store of {len(self)} images")
        if len(self._shards) == 1:
            return self._shards[0].take(rows, axis=0)
        images = np.empty((len(rows), *self._shape), np.uint8)
        owner = rows // self._per_shard
        for number in np.unique(owner):
            here = np.flatnonzero(owner == number)
            images[here] = self._shards[number].take(rows[here] - number * self._per_shard, axis=0)
        return images

    @cached_property
    def _shards(self) -> list[np.ndarray]:
        shards = []
        for shard in self.manifest["shards"]:
            path = self.path / shard["name"]
            try:
                # A plain array over the map: indexing np.memmap itself is several times slower.
                images = np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
            except (OSError, ValueError, EOFError) as error:
                raise _damaged(path) from error
            if images.shape != (shard["images"], *self._shape) or images.dtype != np.uint8:
                raise _damaged(path)
            shards.append(images)
        return shards

    @cached_property
    def _all_labels(self) -> np.ndarray:
        return self._column("label").fill_null(-1).to_numpy(zero_copy_only=False)

    def _column(self, name: str) -> Any:
        return self._table([name])[name].combine_chunks()

    def _table(self, columns: list[str] | None = None) -> Any:
        import pyarrow.parquet as pq

        try:
            return pq.read_table(self.path / INDEX, columns=columns)
        except (OSError, ValueError) as error:
            raise _damaged(self.path / INDEX) from error

    def _verify(self) -> None:
        if manifest_digest(self.manifest) != self.manifest["digest"]:
            raise _damaged(self.path / MANIFEST)
        for entry in [*self.manifest["shards"], self.manifest["index"]]:
            path = self.path / entry["name"]
            if not path.is_file() or file_sha256(path) != entry["sha256"]:
                raise _damaged(path)


def evenly_spread(rows: np.ndarray, wanted: int) -> np.ndarray:
    """At most `wanted` of `rows`, evenly spread: of all classes, if rows are sorted by them."""
    places = np.linspace(0, len(rows) - 1, min(len(rows), wanted)).round().astype(np.int64)
    return rows[np.unique(places)]


def read_test_labels(path: str | Path) -> pd.DataFrame:
    """The labels of the test set: id, label (int64), in the order of the store's test rows.

    Only the evaluation may call this.

    Args:
        path: ``test_labels.parquet``, or the folder that it lies in.

    Raises:
        DataError: It is missing or damaged.
    """
    path = Path(path)
    return _read_apart(path / "test_labels.parquet" if path.is_dir() else path)


def read_test_sources(path: str | Path) -> pd.DataFrame:
    """Names of the files of the test images and of their duplicates: id, source.

    Only the evaluation may call this.

    Args:
        path: ``test_sources.parquet``.

    Raises:
        DataError: It is missing or damaged.
    """
    return _read_apart(Path(path))


def _read_apart(path: Path) -> pd.DataFrame:
    import pyarrow.parquet as pq

    try:
        return pq.read_table(path).to_pandas()
    except FileNotFoundError:
        raise DataError(f"there is no {path}; run the stage prepare.") from None
    except (OSError, ValueError) as error:
        raise _damaged(path) from error


def _int64() -> Any:
    import pyarrow as pa

    return pa.int64()


def _damaged(path: Path) -> DataError:
    return DataError(
        f"{path} is missing or is not what was packed (its checksum or shape differs); "
        "remove the store and run the stage prepare again."
    )
