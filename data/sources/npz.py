"""An ``.npz`` of arrays, read image by image: an array may be larger than memory.

Keys: ``train_images`` (N, H, W[, C]) and ``train_labels`` (N,), and where there are any
``test_images`` and ``val_images`` with their labels, ``unlabelled_images``, and ``classes`` (their
names). As in a folder, val is the test set where there is no test, else more to learn from. An
array of another name that may hold images is refused, any other is passed over by its name.
"""

import difflib
import math
import sys
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np

from data.errors import DataError
from data.files import BYTES_LIMIT
from data.samples import Counts, Sample, Split
from data.sources.archives import require_file
from data.sources.file_names import escaped
from data.sources.params import DataParams
from data.sources.zip_archive import INFLATED_IN_PARTS

LABELLED, UNLABELLED = ("train", "test", "val"), ("unlabelled", "unlabeled")
IMAGES = tuple(f"{part}_images" for part in (*LABELLED, *UNLABELLED))
KEYS = {"classes", *IMAGES, *(f"{part}_labels" for part in LABELLED)}
# An array of another name with two sides of so many values or more may be images.
SIDE = 8
# Of the arrays that are passed over, how many are named.
NAMED = 20
# Images are read in blocks of so many bytes, or one by one if larger.
BLOCK_BYTES = 4 << 20


class Npz:
    """The arrays of one ``.npz``; nothing in it is ever unpickled."""

    def __init__(self, params: DataParams):
        self._path = Path(params.path)
        require_file(self._path)
        try:
            self._zip = zipfile.ZipFile(self._path)
        # By what is damaged: BadZipFile, ValueError, NotImplementedError, struct.error and more.
        except Exception as error:
            raise DataError(f"data.path: {self._path} is not an .npz ({error}).") from None
        members = {name.removesuffix(".npy") for name in self._zip.namelist()}
        self._require_pairs(members)
        self._splits = _splits_of(members)
        held_out = [part for part, split in self._splits.items() if split == "test"]
        self.test_from = f"{held_out[0]}_images" if held_out else None
        self._counts = {part: self._count(f"{part}_images") for part in self._splits}
        self.total = sum(self._counts.values())
        others = sorted(members - KEYS)
        for key in others:
            self._require_no_images(key)
        named = ", ".join(map(escaped, others[:NAMED])) + (", …" if len(others) > NAMED else "")
        self.passed_over: Mapping[str, int] = (
            {f"arrays that are not used: {named}": len(others)} if others else {}
        )
        self.notes: Sequence[str] = ()
        self.classes, self._labels = self._read_labels(members)
        learned = [self._labels[p] for p, s in self._splits.items() if s == "train"]
        labelled = np.bincount(np.concatenate(learned), minlength=len(self.classes))
        unlabelled = sum(self._counts[p] for p, s in self._splits.items() if s == "unlabelled")
        self.counts = Counts(tuple(labelled.tolist()), unlabelled)

    def samples(self) -> Iterator[Sample]:
        """See `Source.samples`."""
        for part, split in self._splits.items():
            labels = self._labels.get(part)
            for number, image in enumerate(self._images(f"{part}_images")):
                label = None if labels is None else int(labels[number])
                yield Sample(f"{part}_images/{number:07d}", split, label, image)

    def close(self) -> None:
        """Close the archive."""
        self._zip.close()

    def _require_pairs(self, members: set[str]) -> None:
        found = ", ".join(sorted(map(escaped, members))[:NAMED]) or "nothing"
        for part in LABELLED:
            images, labels = f"{part}_images", f"{part}_labels"
            if part == "train" and images not in members:
                raise DataError(
                    f"{self._path} has no array {images!r}; it holds {found}. Save its arrays "
                    f"again as {', '.join(IMAGES[:4])}, and the labels as {labels} and so on."
                )
            if images in members and labels not in members:
                raise DataError(
                    f"{self._path} has {images} but no array {labels!r}; it holds {found}. Add "
                    f"them{'' if part == 'train' else ', or name the images unlabelled_images'}."
                )
            if labels in members and images not in members:
                raise DataError(
                    f"{self._path} has {labels} but no {images}; add the images, or remove the "
                    f"labels. It holds {found}."
                )

    def _require_no_images(self, key: str) -> None:
        try:
            with self._member(key) as file:
                shape, _, dtype = _header_of(file)
        except DataError:
            return  # not an array, or one that nobody could read
        if sum(side >= SIDE for side in shape[1:]) < 2 or dtype.kind not in "biuf":
            return
        near = difflib.get_close_matches(key, IMAGES, n=1)
        raise DataError(
            f"{self._path}: the array {escaped(key)!r} {shape} may hold images, but none of that "
            f"name is read. Rename it{f' ({near[0]}?)' if near else ''} to one of "
            f"{', '.join(IMAGES[:4])}, or leave it out."
        )

    def _read_labels(self, members: set[str]) -> tuple[list[str], dict[str, np.ndarray]]:
        labels = {
            part: self._whole_numbers(f"{part}_labels", count)
            for part, count in self._counts.items()
            if part in LABELLED
        }
        known = np.unique(labels["train"][labels["train"] >= 0])
        classes = [str(value) for value in known]
        if "classes" in members:
            classes = self._names("classes")
            known = np.arange(len(classes))
        self._require_classes(classes)
        for part, values in labels.items():
            strange = np.flatnonzero(~np.isin(values, known))
            if strange.size:
                raise DataError(
                    f"{self._path}: {part}_labels[{strange[0]}] is {values[strange[0]]}, which is "
                    f"none of the {len(classes)} classes (of the array classes if there is one, "
                    "else of train_labels); correct it, or put what has no label into "
                    "unlabelled_images."
                )
            labels[part] = np.searchsorted(known, values)
        return classes, labels

    def _require_classes(self, classes: list[str]) -> None:
        twice = [name for name, count in Counter(classes).items() if count > 1]
        if twice:
            raise DataError(
                f"{self._path}: classes names {twice[0]!r} more than once; give each class a name "
                "of its own."
            )
        if len(classes) < 2:
            raise DataError(
                f"{self._path} has {len(classes)} class; a classifier needs at least two: add "
                "images of another."
            )

    def _whole_numbers(self, key: str, count: int) -> np.ndarray:
        with self._member(key) as file:
            shape, dtype = self._header(key, file)
        # A row or a column of them is as good.
        line = max(shape, default=1) == math.prod(shape) == count
        if not line or not np.issubdtype(dtype, np.integer):
            raise DataError(
                f"{self._path}: {key} is {dtype} {shape}; it must hold one whole number for each "
                f"of the {count} {key.replace('labels', 'images')}{_how_to_number(shape, dtype)}."
            )
        return self._array(key).reshape(-1).astype(np.int64)

    def _array(self, key: str) -> np.ndarray:
        with self._member(key) as file:
            shape, dtype = self._header(key, file)
            content = self._read(key, file, math.prod(shape) * dtype.itemsize)
            return np.frombuffer(content, dtype).reshape(shape)

    def _names(self, key: str) -> list[str]:
        names = self._array(key).reshape(-1)
        if names.dtype.kind == "U":
            # Python makes strings of them unseen, and fails when one is used.
            points = np.frombuffer(names.tobytes(), names.dtype.byteorder + "u4")
            if (points > sys.maxunicode).any():
                raise DataError(f"{self._path}: {key} holds what is not text; save it again.")
        return [_text(name) for name in names.tolist()]

    def _count(self, key: str) -> int:
        with self._member(key) as file:
            shape, _ = self._header(key, file)
        if len(shape) not in (3, 4):
            raise DataError(
                f"{self._path}: {key} is {shape}; save it as (N, H, W) or (N, H, W, C)."
            )
        if not math.prod(shape):
            raise DataError(f"{self._path}: {key} is empty; fill it or leave it out.")
        return shape[0]

    def _images(self, key: str) -> Iterator[np.ndarray]:
        with self._member(key) as file:
            shape, dtype = self._header(key, file)
            image_bytes = math.prod(shape[1:]) * dtype.itemsize
            block = max(1, BLOCK_BYTES // max(1, image_bytes))
            for start in range(0, shape[0], block):
                count = min(block, shape[0] - start)
                content = self._read(key, file, count * image_bytes)
                yield from np.frombuffer(content, dtype).reshape(count, *shape[1:])

    @contextmanager
    def _member(self, key: str) -> Iterator[IO[bytes]]:
        """An array's file, whose damage is explained whatever reading it runs into."""
        try:
            if self._zip.getinfo(f"{key}.npy").compress_type not in INFLATED_IN_PARTS:
                raise DataError(
                    f"{self._path}: {key} is packed by another method than deflate; save it again."
                )
            with self._zip.open(f"{key}.npy") as file:
                yield file
        except (DataError, MemoryError):
            raise
        # By what is damaged: BadZipFile, zlib.error, struct.error, EOFError, ValueError and more.
        except Exception as error:
            raise DataError(
                f"{self._path}: {key} is damaged ({error}); save or copy the file again."
            ) from error

    def _header(self, key: str, file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
        shape, fortran, dtype = _header_of(file)
        if any(side < 0 for side in shape):
            raise DataError(f"{self._path}: {key} claims the shape {shape}; save it again.")
        if dtype.hasobject:
            raise DataError(f"{self._path}: {key} holds Python objects; save it as numbers.")
        if fortran:
            raise DataError(f"{self._path}: {key} is in Fortran order; save it in C order.")
        return shape, dtype

    def _read(self, key: str, file: IO[bytes], size: int) -> bytes:
        # A header of a few bytes can claim any size, and a small zip can hold terabytes of zeros.
        if size > BYTES_LIMIT:
            raise DataError(
                f"{self._path}: {key} would need {size} bytes at once, more than "
                f"{BYTES_LIMIT >> 30} GiB; save the file again."
            )
        content = file.read(size)
        if len(content) != size:
            raise DataError(f"{self._path}: {key} is cut short; save the file again.")
        return content


def _splits_of(members: set[str]) -> dict[str, Split]:
    """In which split each part is whose images there are, in the order of `Source.samples`."""
    held_out = "test" if "test_images" in members else "val"
    splits: dict[str, Split] = {held_out: "test", "train": "train"}
    # With a test set of its own, val is more labelled data: no choice here is made on it.
    splits.setdefault("val", "train")
    splits |= dict.fromkeys(UNLABELLED, "unlabelled")
    return {part: split for part, split in splits.items() if f"{part}_images" in members}


def _header_of(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether in Fortran order, and type of an array in a file of its own."""
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }[np.lib.format.read_magic(file)]
    return read(file)


def _how_to_number(shape: tuple[int, ...], dtype: np.dtype) -> str:
    """What makes whole numbers of labels in another form; a sentence's end."""
    if len(shape) == 2 and min(shape) > 1:
        return ": of rows with a single 1, labels.argmax(axis=1); several labels an image do not go"
    if dtype.kind in "USO":
        return ": classes, labels = np.unique(names, return_inverse=True)"
    return ": labels.astype(np.int64)" if dtype.kind in "fb" else ""


def _text(name: object) -> str:
    """A class name of any type as printable text; bytes are taken for UTF-8."""
    return escaped(
        name.decode("utf-8", "surrogateescape") if isinstance(name, bytes) else str(name)
    )
