"""A user's own image files: a folder, or a ``.tar`` or ``.zip`` of one, read without unpacking.

Either ``<class>/<image>`` at the top, or ``train/<class>/…`` beside ``test/<class>/…`` (or, where
there is none, ``val/<class>/…`` as the test set); in both cases with an optional ``unlabelled/`` of
any depth. A class is the name of the folder that an image lies in; an image in no folder counts as
unlabelled. Folders wrapped around all that are passed over.
"""

import os
import posixpath
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple, Protocol

from data.errors import DataError
from data.params import DataParams
from data.reading import BYTES_LIMIT, EXTENSIONS, read_file
from data.sources import Sample, Split

UNLABELLED = ("unlabelled", "unlabeled")
HELD_OUT = ("test", "val")
SPLIT_ORDER: tuple[Split, ...] = ("test", "train", "unlabelled")

Reader = Callable[[], bytes]


class Container(Protocol):
    """What holds files by name: a folder or an archive."""

    def files(self) -> Iterator[tuple[str, Reader]]:
        """Every regular file's name, with ``/`` between its parts, and what reads it."""
        ...

    def close(self) -> None:
        """Release open files."""
        ...


class Placed(NamedTuple):
    """An image file and where its name puts it."""

    name: str
    split: Split
    label: str | None
    read: Reader


class Folder:
    """Images sorted by name within test, train and unlabelled."""

    def __init__(self, params: DataParams):
        self._path = Path(params.path)
        self._container = _open(self._path)
        try:
            self._images = self._place_all()
            labels = Counter(image.label for image in self._images if image.split == "train")
            self.classes = sorted(label for label in labels if label is not None)
            self.has_test = any(image.split == "test" for image in self._images)
            self._require_classes(labels)
        except BaseException:
            self._container.close()
            raise
        self.total = len(self._images)

    def samples(self) -> Iterator[Sample]:
        """See `Source.samples`."""
        positions = {name: position for position, name in enumerate(self.classes)}
        for image in self._images:
            label = None if image.label is None else positions[image.label]
            yield Sample(image.name, image.split, label, image.read)

    def close(self) -> None:
        """Close the archive, if it is one."""
        self._container.close()

    def _place_all(self) -> list[Placed]:
        # Of several members of one name the last counts, as when an archive is unpacked: that is
        # how `tar -r` corrects a file.
        named = {_visible_parts(name): read for name, read in self._container.files()}
        images = [
            (parts, read)
            for parts, read in named.items()
            if parts and parts[-1].lower().endswith(EXTENSIONS)
        ]
        if not images:
            raise DataError(
                f"data.path: no images found in {self._path}; looked for files ending in "
                f"{', '.join(EXTENSIONS)} (hidden files and links out of the folder are passed "
                "over)."
            )
        depth = _wrapping_depth([parts for parts, _ in images])
        tops = {parts[depth] for parts, _ in images if len(parts) > depth + 1}
        self._require_train(tops)
        placed = []
        for parts, read in images:
            place = _place(parts[depth:], tops)
            # Quarantined with a reason, as an image that cannot be read is.
            split, label, reader = (*place, read) if place else ("unlabelled", None, _misplaced)
            placed.append(Placed("/".join(parts), split, label, reader))
        placed.sort(key=lambda image: (SPLIT_ORDER.index(image.split), image.name))
        return placed

    def _require_train(self, tops: set[str]) -> None:
        alone = sorted(tops.intersection(HELD_OUT))
        if alone and "train" not in tops:
            raise DataError(
                f"data.path: {self._path} has {alone[0]}/ but no train/; move the other classes to "
                f"train/<class>/, or rename {alone[0]}/ if it holds no test images."
            )

    def _require_classes(self, labels: Counter[str | None]) -> None:
        if len(self.classes) < 2:
            found = f"only the class {self.classes[0]!r}" if self.classes else "no class folder"
            raise DataError(
                f"data.path: {self._path} has {found}; labelled images must lie in a folder for "
                "each class, at least two of them (<class>/… or train/<class>/…)."
            )
        single = [name for name in self.classes if labels[name] < 2]
        if single and not self.has_test:
            raise DataError(
                f"data.path: class {single[0]!r} in {self._path} has a single image, so none can "
                "be split off for the test; add images, or bring a test/ folder."
            )
        for image in self._images:
            if image.split == "test" and image.label not in labels:
                raise DataError(
                    f"data.path: {image.name} is a test image of class {image.label!r}, which has "
                    "no training image; add some to train/, or remove the class from the test."
                )


def _visible_parts(name: str) -> tuple[str, ...]:
    """A name's parts, each file having but one way to be named; empty for a hidden file.

    What climbs out (``..``, ``/``) is left out: a name only labels a sample, nothing is ever
    written or opened under it.
    """
    parts = PurePosixPath(posixpath.normpath(f"/{name}")).parts[1:]
    if any(part.startswith(".") or part == "__MACOSX" for part in parts):
        return ()
    return parts


def _wrapping_depth(names: list[tuple[str, ...]]) -> int:
    """How many folders are wrapped around the classes or around train/."""
    depth = 0
    shallowest = min(map(len, names))
    while depth + 2 < shallowest:
        tops = {parts[depth] for parts in names}
        if len(tops) > 1 or tops & {"train", *HELD_OUT, *UNLABELLED}:
            break
        depth += 1
    return depth


def _place(parts: tuple[str, ...], tops: set[str]) -> tuple[Split, str | None] | None:
    """Split and class of an image by its parts below the wrapping folders, None if it has none."""
    top = parts[0]
    if len(parts) == 1 or top in UNLABELLED:
        return "unlabelled", None
    if "train" not in tops:
        return "train", parts[-2]
    if len(parts) == 2:
        return None
    if top == "test" or (top == "val" and "test" not in tops):
        return "test", parts[-2]
    # With a test/ of its own, a val/ is more labelled data: no choice here is made on it.
    return ("train", parts[-2]) if top in ("train", "val") else None


def _misplaced() -> bytes:
    raise DataError("lies outside train/<class>/, test/<class>/, val/<class>/ and unlabelled/")


def _open(path: Path) -> Container:
    if path.is_dir():
        return _Directory(path)
    if not path.exists():
        raise DataError(
            f"data.path: there is no {path}; put your images there or correct the path."
        )
    if zipfile.is_zipfile(path):
        return _Zip(path)
    if _is_tar(path):
        return _Tar(path)
    raise DataError(
        f"data.path: {path} is no folder, .zip or uncompressed .tar; unpack it, or pack the images "
        "again without compression (they are compressed already)."
    )


def _is_tar(path: Path) -> bool:
    try:
        with tarfile.open(path, "r:"):
            return True
    except tarfile.TarError:
        return False


def _damaged(path: Path, error: object) -> DataError:
    return DataError(f"data.path: {path} is damaged ({error}); copy or pack it again.")


class _Directory:
    def __init__(self, root: Path):
        self._root = root.resolve()

    def files(self) -> Iterator[tuple[str, Reader]]:
        for folder, _, names in os.walk(self._root):
            for name in names:
                path = Path(folder, name)
                if path.is_symlink() and not path.resolve().is_relative_to(self._root):
                    continue
                if path.is_file():
                    yield path.relative_to(self._root).as_posix(), partial(read_file, path)

    def close(self) -> None:
        pass


class _Tar:
    """Members are read at their offset, by any thread, in any order."""

    def __init__(self, path: Path):
        with tarfile.open(path, "r:") as archive:
            self._members = list(_members(archive, path))
        self._descriptor = os.open(path, os.O_RDONLY)

    def files(self) -> Iterator[tuple[str, Reader]]:
        for name, offset, size in self._members:
            size = min(size, BYTES_LIMIT + 1)
            yield name, partial(os.pread, self._descriptor, size, offset)

    def close(self) -> None:
        os.close(self._descriptor)


def _members(archive: tarfile.TarFile, path: Path) -> Iterator[tuple[str, int, int]]:
    """Name, offset and size of each file in the archive."""
    try:
        for member in archive:
            if member.isfile() and not member.issparse():
                yield member.name, member.offset_data, member.size
    except (tarfile.TarError, ValueError, EOFError) as error:
        raise _damaged(path, error) from error


class _Zip:
    def __init__(self, path: Path):
        try:
            self._zip = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
            raise _damaged(path, error) from error

    def files(self) -> Iterator[tuple[str, Reader]]:
        for member in self._zip.infolist():
            if not member.is_dir():
                # Some tools on Windows write backslashes, against the format.
                yield member.filename.replace("\\", "/"), partial(self._read, member)

    def close(self) -> None:
        self._zip.close()

    def _read(self, member: zipfile.ZipInfo) -> bytes:
        # A few kilobytes of zip can hold terabytes of zeros.
        with self._zip.open(member) as file:
            return file.read(BYTES_LIMIT + 1)
