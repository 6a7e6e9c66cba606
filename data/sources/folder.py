"""A user's own image files: a folder, or a ``.tar`` or ``.zip`` of one, read without unpacking.

Either ``<class>/<image>`` at the top, or ``train/<class>/…`` beside ``test/<class>/…`` (or, where
there is none, ``val/<class>/…`` as the test set); in both cases with an optional ``unlabelled/`` of
any depth. A class is the name of the folder that an image lies in; an image in no folder counts as
unlabelled. Folders wrapped around all that are passed over.
"""

import posixpath
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from data.errors import DataError
from data.formats import START_BYTES, unread_by_name
from data.naming import escaped
from data.params import DataParams
from data.reading import BYTES_LIMIT, EXTENSIONS, looks_like_image, require_few_bytes
from data.sources import Sample, Split
from data.sources.containers import Member, open_container

UNLABELLED = ("unlabelled", "unlabeled")
HELD_OUT = ("test", "val")
SPLIT_ORDER: tuple[Split, ...] = ("test", "train", "unlabelled")
HIDDEN = "hidden files"
NO_IMAGE = "files that are no images, by name and by content"
REPLACED = "members that another of the same name replaces"


class Placed(NamedTuple):
    """An image file and where its name puts it."""

    name: str
    split: Split
    label: str | None
    read: Callable[[], bytes]


class Folder:
    """Images sorted by name within test, train and unlabelled."""

    def __init__(self, params: DataParams):
        self._path = Path(params.path)
        self._container = open_container(self._path)
        passed_over: Counter[str] = Counter()
        try:
            self._images = self._place_all(passed_over)
            labels = Counter(image.label for image in self._images if image.split == "train")
            self.classes = sorted(label for label in labels if label is not None)
            self.has_test = any(image.split == "test" for image in self._images)
            self._require_classes(labels)
        except BaseException:
            self._container.close()
            raise
        self.total = len(self._images)
        self.passed_over: Mapping[str, int] = passed_over

    def samples(self) -> Iterator[Sample]:
        """See `Source.samples`."""
        positions = {name: position for position, name in enumerate(self.classes)}
        for image in self._images:
            label = None if image.label is None else positions[image.label]
            yield Sample(image.name, image.split, label, image.read)

    def close(self) -> None:
        """Close the archive, if it is one."""
        self._container.close()

    def _place_all(self, passed_over: Counter[str]) -> list[Placed]:
        found = self._find_images(passed_over)
        images = [parts for parts, member in found.items() if member.regular]
        if not images:
            raise DataError(
                f"data.path: no images found in {self._path}; looked for files ending in "
                f"{', '.join(EXTENSIONS)} (hidden files and links out of the folder are passed "
                "over)."
            )
        # A drawing beside the folders (logo.svg) tells nothing of them, if there is what is read.
        depth = _wrapping_depth([i for i in images if not unread_by_name(i[-1])] or images)
        tops = {parts[depth] for parts in images if len(parts) > depth + 1}
        self._require_train(tops)
        placed = []
        for parts, member in found.items():
            place: tuple[Split, str | None] | None = ("unlabelled", None)
            # What is no file tells nothing of the layout. Misplaced images are quarantined with a
            # reason, as one that cannot be read is.
            if member.regular:
                place = _place(parts[depth:], tops)
            split, label = place or ("unlabelled", None)
            read = partial(whole, member) if place else _misplaced
            placed.append(Placed(escaped("/".join(parts)), split, label, read))
        placed.sort(key=lambda image: (SPLIT_ORDER.index(image.split), image.name))
        return placed

    def _find_images(self, passed_over: Counter[str]) -> dict[tuple[str, ...], Member]:
        """Images, and what may be one or cannot be looked at, by the parts of their names."""
        found: dict[tuple[str, ...], Member] = {}
        for member in self._container.members():
            parts = visible_parts(member.name)
            if not parts:
                passed_over[HIDDEN] += 1
            elif not may_be_image(parts[-1], member):
                passed_over[NO_IMAGE] += 1
            else:
                # Of several members of one name the last counts, as when an archive is unpacked:
                # that is how `tar -r` corrects a file.
                if parts in found:
                    passed_over[REPLACED] += 1
                found[parts] = member
        return found

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


def may_be_image(name: str, member: Member) -> bool:
    """By its name or, where that says nothing, by its content; and all that cannot be looked at."""
    if name.lower().endswith(EXTENSIONS) or unread_by_name(name) or not member.regular:
        return True
    try:
        return looks_like_image(member.read(START_BYTES))
    except Exception:
        return True


def visible_parts(name: str) -> tuple[str, ...]:
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
        return "train", escaped(parts[-2])
    if len(parts) == 2:
        return None
    if top == "test" or (top == "val" and "test" not in tops):
        return "test", escaped(parts[-2])
    # With a test/ of its own, a val/ is more labelled data: no choice here is made on it.
    return ("train", escaped(parts[-2])) if top in ("train", "val") else None


def whole(member: Member) -> bytes:
    """A member's content, or, of one too large for an image, enough to tell."""
    # An archive of a few kilobytes can declare, and truly hold, terabytes of zeros.
    require_few_bytes(member.size)
    return member.read(BYTES_LIMIT + 1)


def _misplaced() -> bytes:
    raise DataError("lies outside train/<class>/, test/<class>/, val/<class>/ and unlabelled/")
