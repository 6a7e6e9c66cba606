"""An ``.npz`` of arrays, read image by image: an array may be larger than memory.

Keys: ``train_images`` (N, H, W[, C]) and ``train_labels`` (N,), and where there are any
``test_images``, ``test_labels``, ``unlabelled_images`` and ``classes`` (their names).
"""

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np

from data.errors import DataError
from data.params import DataParams
from data.sources import Sample, Split

SPLITS: tuple[Split, ...] = ("test", "train", "unlabelled")


class Npz:
    """The arrays of one ``.npz``; nothing in it is ever unpickled."""

    def __init__(self, params: DataParams):
        self._path = Path(params.path)
        try:
            self._zip = zipfile.ZipFile(self._path)
        except FileNotFoundError:
            raise DataError(f"data.path: there is no file {self._path}.") from None
        except (OSError, zipfile.BadZipFile) as error:
            raise DataError(f"data.path: {self._path} is no .npz ({error}).") from None
        members = {name.removesuffix(".npy") for name in self._zip.namelist()}
        for key in ("train_images", "train_labels"):
            if key not in members:
                found = ", ".join(sorted(members)) or "nothing"
                raise DataError(f"{self._path} has no array {key!r}; it holds {found}.")
        if "test_images" in members and "test_labels" not in members:
            raise DataError(f"{self._path} has test_images but no test_labels; add them.")
        self.has_test = "test_images" in members
        self._shapes = {
            split: self._shape(f"{split}_images")
            for split in SPLITS
            if f"{split}_images" in members
        }
        self.total = sum(shape[0] for shape in self._shapes.values())
        self.classes, self._labels = self._read_labels(members)

    def samples(self) -> Iterator[Sample]:
        """See `Source.samples`."""
        for split in self._shapes:
            labels = self._labels.get(split)
            for number, image in enumerate(self._images(f"{split}_images")):
                label = None if labels is None else int(labels[number])
                yield Sample(f"{split}_images/{number:07d}", split, label, image)

    def close(self) -> None:
        """Close the archive."""
        self._zip.close()

    def _read_labels(self, members: set[str]) -> tuple[list[str], dict[Split, np.ndarray]]:
        labels: dict[Split, np.ndarray] = {}
        for split in self._shapes:
            if split == "unlabelled":
                continue
            values = self._array(f"{split}_labels")
            if values.size != self._shapes[split][0] or not np.issubdtype(values.dtype, np.integer):
                raise DataError(
                    f"{self._path}: {split}_labels is {values.dtype} {values.shape}; it must hold "
                    f"one whole number for each of the {self._shapes[split][0]} {split}_images."
                )
            labels[split] = values.reshape(-1).astype(np.int64)
        known = np.unique(labels["train"])
        if "classes" in members:
            classes = [str(name) for name in self._array("classes").reshape(-1)]
            known = np.arange(len(classes))
        else:
            classes = [str(value) for value in known]
        for split, values in labels.items():
            strange = np.flatnonzero(~np.isin(values, known))
            if strange.size:
                raise DataError(
                    f"{self._path}: {split}_labels[{strange[0]}] is {values[strange[0]]}, which is "
                    f"none of the {len(classes)} classes (of the array classes if there is one, "
                    "else of train_labels); correct it."
                )
            labels[split] = np.searchsorted(known, values)
        return classes, labels

    def _array(self, key: str) -> np.ndarray:
        with self._zip.open(f"{key}.npy") as file:
            try:
                return np.lib.format.read_array(file, allow_pickle=False)
            except ValueError as error:
                raise DataError(f"{self._path}: {key} cannot be read ({error}).") from error

    def _shape(self, key: str) -> tuple[int, ...]:
        with self._zip.open(f"{key}.npy") as file:
            shape, _ = self._header(key, file)
        return shape

    def _header(self, key: str, file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
        try:
            version = np.lib.format.read_magic(file)
            read = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }[version]
            shape, fortran, dtype = read(file)
        except (ValueError, KeyError) as error:
            raise DataError(f"{self._path}: {key} is no array ({error}).") from error
        if dtype.hasobject:
            raise DataError(f"{self._path}: {key} holds Python objects; save it as numbers.")
        if fortran or len(shape) not in (3, 4):
            raise DataError(
                f"{self._path}: {key} is {shape}{' in Fortran order' if fortran else ''}; save it "
                "as (N, H, W) or (N, H, W, C) in C order."
            )
        return shape, dtype

    def _images(self, key: str) -> Iterator[np.ndarray]:
        with self._zip.open(f"{key}.npy") as file:
            shape, dtype = self._header(key, file)
            image_bytes = int(np.prod(shape[1:])) * dtype.itemsize
            block = max(1, (4 << 20) // max(1, image_bytes))
            for start in range(0, shape[0], block):
                count = min(block, shape[0] - start)
                try:
                    content = file.read(count * image_bytes)
                except zipfile.BadZipFile as error:
                    raise DataError(f"{self._path}: {key} is damaged ({error}).") from error
                if len(content) != count * image_bytes:
                    raise DataError(f"{self._path}: {key} is cut short; save the file again.")
                yield from np.frombuffer(content, dtype).reshape(count, *shape[1:])
